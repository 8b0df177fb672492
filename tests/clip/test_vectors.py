"""Embeddings in files: what is saved reads back, and what is none is told in one line."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from guidance.clip.vectors import read_embedding, save_embedding
from guidance.errors import InputError


@pytest.mark.parametrize("name", ["fox.npy", "fox.safetensors", "FOX.NPY"])
def test_what_is_saved_reads_back(tmp_path: Path, name: str) -> None:
    row = torch.randn(48, generator=torch.Generator().manual_seed(0))
    save_embedding(tmp_path / name, row)
    assert torch.equal(read_embedding(tmp_path / name), row)
    save_embedding(tmp_path / name, row.double()[:7].requires_grad_())
    assert torch.equal(read_embedding(tmp_path / name), row[:7])
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, ">f4"])
def test_other_programs_rows_are_read(tmp_path: Path, dtype: type | str) -> None:
    row = np.arange(1, 6).astype(dtype)
    np.save(tmp_path / "a.npy", row[None])
    save_file({"anything": row[:, None].astype(row.dtype.newbyteorder("="))}, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.safetensors"):
        assert read_embedding(tmp_path / name).tolist() == [1, 2, 3, 4, 5]


def broken_files(folder: Path) -> dict[str, str]:
    """Files that are no embeddings, and words of what is said about each."""
    np.save(folder / "two.npy", np.ones((2, 3)))
    np.save(folder / "number.npy", np.ones(()))
    np.save(folder / "zero.npy", np.zeros(3))
    np.save(folder / "nan.npy", np.full(3, np.nan))
    np.save(folder / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.save(folder / "strings.npy", np.array(["a", "b"]))
    np.save(folder / "complex.npy", np.ones(3) * 1j)
    np.save(folder / "large.npy", np.ones(1_000_000))
    nested = b"-" * 5000 + b"1"
    (folder / "nested.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(nested).to_bytes(2, "little") + nested)
    (folder / "endless.npy").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.npy")
    (folder / "pickle.npy").write_bytes(pickle.dumps([1.0, 2.0]))
    (folder / "empty.npy").write_bytes(b"")
    with zipfile.ZipFile(folder / "zip.npy", "w") as archive:
        archive.write(folder / "two.npy")
    # A header that promises a terabyte.
    header = (folder / "zero.npy").read_bytes().replace(b"(3,), }          ", b"(300000000000,),}")
    assert b"300000000000" in header
    (folder / "bomb.npy").write_bytes(header)
    save_file({"a": np.ones(3), "b": np.ones(3)}, folder / "several.safetensors")
    (folder / "broken.safetensors").write_bytes(b"\xff" * 100)
    (folder / "empty.safetensors").write_bytes(b"")
    return {
        "two.npy": "2×3", "number.npy": "", "zero.npy": "zero", "nan.npy": "finite",
        "objects.npy": "cannot read", "strings.npy": "cannot read", "large.npy": "many",
        "pickle.npy": "cannot read", "empty.npy": "cannot read", "zip.npy": "cannot read",
        "bomb.npy": "cannot read", "several.safetensors": "2 tensors", "broken.safetensors": "cannot read",
        "complex.npy": "complex", "nested.npy": "cannot read", "endless.npy": "no such file",
        "pipe.npy": "no such file", "empty.safetensors": "cannot read",
        "missing.npy": "cannot read", "a.txt": "ends in",
    }  # fmt: skip


def test_what_is_no_embedding_is_told_in_one_line(tmp_path: Path) -> None:
    for name, words in broken_files(tmp_path).items():
        if name == "number.npy":
            continue
        with pytest.raises(InputError, match=words) as error:
            read_embedding(tmp_path / name)
        assert "\n" not in str(error.value), name
        assert name in str(error.value)


def test_another_ending_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ends in"):
        save_embedding(tmp_path / "a.pt", torch.ones(3))
    assert not list(tmp_path.iterdir())
