"""Making pictures with captioned regions for ``ps3_pretrain``: ``python -m train.curate``."""
