"""The demo: talk about large pictures in the browser and see where the model looked. ``python -m demo``."""
