"""The claims of the PS3 paper (arXiv 2503.19903), measured on models that two CPU cores train in minutes."""
