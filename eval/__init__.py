"""Application: measures speed and accuracy. Run it from the checkout with ``python -m eval``."""
