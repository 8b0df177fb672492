"""Conditions: mixed, joined, and in files that nothing but a condition passes for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from guidance.diffusion.conditioning import (
    Condition,
    blend,
    concatenate,
    load_condition,
    save_condition,
    stack,
)
from guidance.errors import InputError


def made(b: int = 1, t: int = 4, d: int = 3, p: int | None = 2, seed: int = 0) -> Condition:
    generator = torch.Generator().manual_seed(seed)
    pooled = None if p is None else torch.randn(b, p, generator=generator)
    return Condition(torch.randn(b, t, d, generator=generator), pooled)


def same(a: Condition, b: Condition) -> bool:
    alike = a.pooled is b.pooled if a.pooled is None or b.pooled is None else torch.equal(a.pooled, b.pooled)
    return alike and torch.equal(a.hidden, b.hidden)


@pytest.mark.parametrize("p", [None, 2])
def test_saved_and_loaded(tmp_path, p):
    condition = made(b=2, p=p)
    save_condition(tmp_path / "new" / "fox.safetensors", condition)
    assert same(load_condition(tmp_path / "new" / "fox.safetensors"), condition)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["fox.safetensors"]


def test_halves_are_saved_as_they_are_and_loaded_as_float32(tmp_path):
    save_condition(tmp_path / "a.safetensors", made().to("cpu", torch.bfloat16))
    assert load_file(tmp_path / "a.safetensors")["hidden"].dtype == torch.float32
    assert load_condition(tmp_path / "a.safetensors").hidden.dtype == torch.float32


def test_blends():
    one, two = made(seed=1), made(seed=2)
    torch.testing.assert_close(blend([one, two], [3, 1]).hidden, 0.75 * one.hidden + 0.25 * two.hidden)
    torch.testing.assert_close(blend([one, two], [3, 1]).pooled, 0.75 * one.pooled + 0.25 * two.pooled)
    raw = blend([one, two], [1, -1], normalize=False)
    torch.testing.assert_close(raw.hidden, one.hidden - two.hidden)


def test_one_after_the_other_and_together():
    one, two = made(seed=1), made(t=8, seed=2)
    both = concatenate([one, two])
    assert torch.equal(both.hidden, torch.cat([one.hidden, two.hidden], 1))
    assert torch.equal(both.pooled, one.pooled)
    population = stack([one, made(b=2, seed=3)])
    assert len(population.hidden) == len(population.pooled) == 3
    assert same(population[:1], one)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda: blend([made()], [1, 2]), "a weight for each prompt, got 2 for 1"),
        (lambda: blend([made(), made()], [1, -1]), "must not sum to zero"),
        (lambda: blend([made(), made()], [1, float("nan")]), "must be finite"),
        (lambda: blend([made(), made(t=8)], [1, 1]), "1 × 4 × 3 and 1 × 8 × 3"),
        (lambda: concatenate([made(), made(d=5)]), "1 × 3 and 1 × 5"),
        (lambda: stack([made(), made(p=None)]), "conditions must be alike"),
        (lambda: save_condition("fox.npy", made()), "ends in .safetensors, got 'fox.npy'"),
    ],
)
def test_mistakes_are_one_line(mistake, said):
    with pytest.raises(InputError, match=said):
        mistake()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (None, "there is no such file"),
        ({}, "its tensors are none"),
        ({"hidden": torch.zeros(1, 4, 3), "more": torch.zeros(1)}, "its tensors are hidden, more"),
        ({"hidden": torch.zeros(4, 3)}, "hidden is 4 × 3"),
        ({"hidden": torch.zeros(2, 4, 3), "pooled": torch.zeros(1, 2)}, "pooled is 1 × 2, and not 2"),
        ({"hidden": torch.full((1, 4, 3), torch.nan)}, "not finite"),
        ({"hidden": torch.full((1, 4, 3), 1e300, dtype=torch.float64)}, "not finite"),
        ({"hidden": torch.ones(1, 4, 3, dtype=torch.complex64)}, "no floating-point numbers"),
        ({"hidden": torch.ones(1, 4, 3, dtype=torch.int64)}, "no floating-point numbers"),
        ({"hidden": torch.ones(1, 4, 3).to(torch.float8_e8m0fnu)}, "cannot read the condition"),
    ],
)
def test_files_that_are_no_conditions(tmp_path: Path, tensors, said):
    path = tmp_path / "a.safetensors"
    if tensors is not None:
        save_file(tensors, path)
    with pytest.raises(InputError, match=said):
        load_condition(path)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(InputError, match="cannot read the condition"):
        load_condition(path)
