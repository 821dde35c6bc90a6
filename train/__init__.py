"""Training application, run from the checkout: ``deepspeed --module train --config
configs/train/nano/<stage>.yaml``."""
