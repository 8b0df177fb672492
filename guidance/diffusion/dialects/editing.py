"""Prompts that change with the steps."""


class Edited:
    def __init__(self, text: str) -> None:
        self.changes = False
