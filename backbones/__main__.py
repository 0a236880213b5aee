"""The command line: python -m backbones, or backbones."""

from backbones.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
