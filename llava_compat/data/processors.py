"""The processor of a model alone: its weights are not read."""

from pathlib import Path

from vila_hd import VilaHDProcessor, add_pictures_to_template
from vila_hd.cli.models import BUNDLED, quieten_transformers
from vila_hd.errors import VilaHDError
from vila_hd.utils.text import one_line

from ..checkpoints import read_checkpoint
from ..conversation import chat_template
from ..folders import is_published


def load_processor(name: str, template: str | None = None) -> VilaHDProcessor:
    """The processor of a model.

    Args:
        name: ``nano``, a model folder (ours or a published one) or a hub id.
        template: a name for ``llava_compat.conversation.chat_template``; None: the model's own template.

    Raises:
        VilaHDError: it cannot be read, or there is no such template.
    """
    words = None if template is None else chat_template(template)
    quieten_transformers()
    processor = _read(str(BUNDLED) if name == "nano" else name)
    if words is not None:
        processor.chat_template = add_pictures_to_template(words)
    return processor


def _read(name: str) -> VilaHDProcessor:
    folder = Path(name).expanduser()
    if not folder.is_dir() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise VilaHDError(f"{name}: no such folder; use 'nano', a model folder or a hub id like owner/name")
    if folder.is_dir() and is_published(folder):
        return read_checkpoint(folder).processor
    try:
        return VilaHDProcessor.from_pretrained(folder if folder.is_dir() else name)
    except VilaHDError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = one_line(error)[:160]
        raise VilaHDError(f"{name}: its processor cannot be read ({reason}); give its folder") from error
