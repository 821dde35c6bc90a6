"""Questions and scoring, one module per benchmark; none of them touches a model."""
