"""Any image-text-to-text model of transformers that has a chat template."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from vila_hd.errors import VilaHDError
from vila_hd.loading import resolve_device, resolve_dtype

from .external import Reply


class TransformersChat:
    """A loaded model with its processor.

    Args:
        name: folder or hub id.
        dtype: as for ``vila_hd.load``.
        device: as for ``vila_hd.load``.
        revision: branch, tag or commit of a hub repository.
        trust_remote_code: allow the repository to bring its own code.

    Raises:
        VilaHDError: it cannot be loaded, or has no chat template.
    """

    def __init__(
        self,
        name: str,
        *,
        dtype: str = "auto",
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        where = resolve_device(device)
        hub: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        if revision is not None:
            hub["revision"] = revision
        try:
            self._processor = AutoProcessor.from_pretrained(name, **hub)
            model = AutoModelForImageTextToText.from_pretrained(
                name, dtype=resolve_dtype(dtype, where), **hub
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise VilaHDError(f"hf:{name}: transformers cannot load it ({reason})") from error
        if getattr(self._processor, "chat_template", None) is None:
            raise VilaHDError(
                f"hf:{name}: its processor has no chat template; use an instruction-tuned model"
            )
        self._model = model.to(where).eval()

    @torch.inference_mode()
    def ask(self, pictures: Sequence[Image.Image], prompt: str, max_new_tokens: int) -> Reply:
        """The greedy answer."""
        items: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in pictures]
        message = {"role": "user", "content": [*items, {"type": "text", "text": prompt}]}
        inputs = self._processor.apply_chat_template(
            [message], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self._model.device, self._model.dtype)
        ids = self._model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        length = inputs["input_ids"].shape[1]
        text = self._processor.batch_decode(ids[:, length:], skip_special_tokens=True)[0]
        return Reply(text=text, prompt_tokens=length, visual_tokens=self._visual_tokens(inputs["input_ids"]))

    def _visual_tokens(self, ids: torch.Tensor) -> int | None:
        """Placeholders of pictures in the prompt, where the configuration names them."""
        config = self._model.config
        image_id = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
        return None if image_id is None else int((ids == image_id).sum())
