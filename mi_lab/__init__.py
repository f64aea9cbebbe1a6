"""mi_lab: train small transformers, take them apart, and check what you find.

Everything public is imported when first used, so that `import mi_lab` costs nothing.
"""

__version__ = "0.1.0"
