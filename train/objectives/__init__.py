"""What each stage optimises: pure functions of outputs and targets."""
