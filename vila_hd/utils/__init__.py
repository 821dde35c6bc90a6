"""Small helpers without knowledge of models: strict YAML, optional packages, logging, text for terminals."""
