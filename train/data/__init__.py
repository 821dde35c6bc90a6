"""Pictures with items (regions or questions), and the batches that the stages train on."""
