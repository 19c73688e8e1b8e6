"""Trains any-to-any models to generate a user's next item.

The rooms and what each may import: docs/architecture.md.
"""

__version__ = "0.1.0"
