"""The parts of the Selection Lens; its public functions are in ``vila_hd.selection_lens``."""
