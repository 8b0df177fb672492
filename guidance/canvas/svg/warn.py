"""What a reader says of an SVG that it could not follow in everything."""


class SvgWarning(UserWarning):
    """An SVG uses features that a `Scene` cannot hold; the message names each of them once."""
