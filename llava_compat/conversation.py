"""Classic conversation templates: chat templates of published models, and the objects that scripts use.

Every template is data: a row of ``CLASSIC`` filled into the Jinja text of its style, or a whole Jinja text of
``JINJA``. ``auto`` stands for the chat template that comes with a tokenizer.
"""

import copy
import json
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache

import jinja2

from vila_hd.errors import VilaHDError


class SeparatorStyle(Enum):
    """How a template puts messages together."""

    AUTO = auto()
    TWO = auto()
    MPT = auto()
    PLAIN = auto()
    LLAMA_3 = auto()


_SYSTEM = (
    "{%- if messages and messages[0]['role'] == 'system' -%}"
    "{%- set system = system_start + messages[0]['content'] -%}{%- set messages = messages[1:] -%}"
    "{%- endif -%}"
)
_ALTERNATE = (
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('roles must alternate: user, assistant, user, ...') -}}"
    "{%- endif -%}"
)
_EACH = "{%- for message in messages -%}" + _ALTERNATE
_ROLE = "{{- user if message['role'] == 'user' else assistant -}}"

STYLES = {
    SeparatorStyle.TWO: (
        "{{- bos_token -}}{{- system + sep -}}" + _EACH + _ROLE + "{{- ': ' + message['content'] -}}"
        "{{- sep if message['role'] == 'user' else sep2 -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- assistant + ':' -}}{%- endif -%}"
    ),
    SeparatorStyle.MPT: (
        "{{- system + sep -}}" + _EACH + _ROLE + "{{- message['content'] + sep -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- assistant -}}{%- endif -%}"
    ),
    SeparatorStyle.LLAMA_3: (
        "{{- system + sep -}}" + _EACH + _ROLE + "{{- message['content'] -}}"
        "{{- sep2 if loop.last and not add_generation_prompt else sep -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- assistant -}}{%- endif -%}"
    ),
    SeparatorStyle.PLAIN: (
        "{{- system -}}" + _EACH + "{{- message['content'] -}}"
        "{{- sep if message['role'] == 'user' else sep2 -}}{%- endfor -%}"
    ),
}
"""Jinja texts with the names ``system``, ``user``, ``assistant``, ``sep`` and ``sep2`` left open."""

JINJA = {
    "qwen2": (
        "{%- if messages[0]['role'] != 'system' -%}"
        "{{- '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' -}}{%- endif -%}"
        "{%- for message in messages if message['content'] is not none -%}"
        "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
    ),
    "mistral": (
        "{{- bos_token -}}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}{{- message['content'] | trim + '\\n\\n' -}}"
        "{%- elif message['role'] == 'user' -%}{{- '[INST] ' + message['content'] | trim + ' [/INST]' -}}"
        "{%- else -%}{{- ' ' + message['content'] | trim + eos_token -}}{%- endif -%}"
        "{%- endfor -%}"
    ),
}
"""Chat templates that published training runs put into tokenizers."""


@dataclass
class Conversation:
    """Turns under one template. ``system``, ``sep`` and so on may be changed, as scripts do."""

    system: str
    """What the text starts with."""

    roles: tuple[str, str]
    """What introduces the user's and the assistant's words."""

    messages: list[list[str | None]] = field(default_factory=list)
    """``[role, text]``; text None in the last one: the answer to come."""

    sep_style: SeparatorStyle = SeparatorStyle.AUTO
    sep: str = "\n"
    """Ends a message."""

    sep2: str | None = None
    """Ends the assistant's messages (``TWO``, ``PLAIN``) or the last one (``LLAMA_3``)."""

    system_start: str = ""
    """The part of ``system`` that stays when a chat brings its own system message."""

    version: str = ""
    """Name of the template."""

    def append_message(self, role: str, message: str | None) -> None:
        """Add a turn; None: the answer to come."""
        self.messages.append([role, message])

    def copy(self) -> "Conversation":
        """An independent conversation with the same turns."""
        return copy.deepcopy(self)

    def get_prompt(self) -> str:
        """The text of the conversation, without the token that a tokenizer puts in front.

        Raises:
            VilaHDError: the template is ``auto``, roles do not alternate, or a text is missing.
        """
        if self.sep_style is SeparatorStyle.AUTO:
            raise VilaHDError(
                f"template {self.version or 'auto'!r} is the tokenizer's own chat template: use "
                "processor.apply_chat_template, or another one of conv_templates"
            )
        for number, (role, text) in enumerate(self.messages):
            if role != self.roles[number % 2]:
                raise VilaHDError(f"message {number} is from {role!r}: expected {self.roles[number % 2]!r}")
            if text is None and (number + 1 < len(self.messages) or number % 2 == 0):
                raise VilaHDError(f"message {number} has no text: only the last answer may be None")
        is_open = bool(self.messages) and self.messages[-1][1] is None
        chat = [
            {"role": ("user", "assistant")[number % 2], "content": text}
            for number, (_, text) in enumerate(self.messages)
            if text is not None
        ]
        return _compile(STYLES[self.sep_style]).render(
            messages=chat, add_generation_prompt=is_open, **self._values()
        )

    def chat_template(self) -> str | None:
        """Jinja text for a tokenizer or processor; None: the tokenizer's own (``auto``).

        A system message of a chat takes the place of the template's own.
        """
        if self.sep_style is SeparatorStyle.AUTO:
            return None
        values = {**self._values(), "system_start": self.system_start}
        # Every JSON string without escaped characters beyond ASCII is a Jinja string.
        settings = [
            f"{{%- set {name} = {json.dumps(v, ensure_ascii=False)} -%}}" for name, v in values.items()
        ]
        return "".join(settings) + _SYSTEM + STYLES[self.sep_style]

    def _values(self) -> dict[str, str]:
        user, assistant = self.roles
        return {
            "system": self.system,
            "user": user,
            "assistant": assistant,
            "sep": self.sep,
            "sep2": self.sep2 or "",
        }


@cache
def _compile(template: str) -> jinja2.Template:
    environment = jinja2.Environment()  # renders text for a model, never a web page
    environment.globals["raise_exception"] = _raise
    return environment.from_string(template)


def _raise(message: str) -> None:
    raise VilaHDError(message)


_VICUNA = Conversation(
    system=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    roles=("USER", "ASSISTANT"),
    sep_style=SeparatorStyle.TWO,
    sep=" ",
    sep2="</s>",
    version="v1",
)
_LLAMA_3_START = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
_LLAMA_3 = Conversation(
    system=_LLAMA_3_START + "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language.",
    roles=(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    sep_style=SeparatorStyle.LLAMA_3,
    sep="<|eot_id|>",
    sep2="<|end_of_text|>",
    system_start=_LLAMA_3_START,
    version="llama_3",
)

conv_templates: dict[str, Conversation] = {
    "auto": Conversation(system="", roles=("", ""), version="auto"),
    "v1": _VICUNA,
    "vicuna_v1": _VICUNA,
    "plain": Conversation(system="", roles=("", ""), sep_style=SeparatorStyle.PLAIN, version="plain"),
    "hermes-2": Conversation(
        system="<|im_start|>system\nAnswer the questions.",
        roles=("<|im_start|>user\n", "<|im_start|>assistant\n"),
        sep_style=SeparatorStyle.MPT,
        sep="<|im_end|>",
        system_start="<|im_start|>system\n",
        version="hermes-2",
    ),
    "llama_3": _LLAMA_3,
    "llava_llama_3": _LLAMA_3,
}
"""Name that command lines and scripts use -> template. Take a ``copy()`` to add turns to."""

default_conversation: Conversation = conv_templates["auto"]
"""What scripts assign to: from then on the template of every ``llava_compat.api.VilaModel``."""

PATH_RULES: tuple[tuple[str, str], ...] = (
    ("nvila15b", "vicuna_v1"),
    ("vila1.5-3b", "vicuna_v1"),
    ("vila1.5-8b", "llama_3"),
    ("vila1.5-13b", "vicuna_v1"),
    ("vila1.5-40b", "hermes-2"),
    ("llama-3", "llama_3"),
    ("llama3", "llama_3"),
)
"""Part of a model's name in lower case -> its template; the first that occurs counts."""


def template_for_path(path: str) -> str:
    """Name of the template that a model was trained with, by its name or path; ``auto`` for all others."""
    lowered = str(path).lower()
    return next((template for part, template in PATH_RULES if part in lowered), "auto")


def chat_template(name: str) -> str | None:
    """Jinja chat template of a name in ``conv_templates`` or ``JINJA``; None for ``auto``.

    For chats with pictures, give it to ``vila_hd.add_pictures_to_template``.

    Raises:
        VilaHDError: there is no template of that name.
    """
    if name in JINJA:
        return JINJA[name]
    if name not in conv_templates:
        raise VilaHDError(f"template {name!r}: use one of {', '.join(sorted({*conv_templates, *JINJA}))}")
    return conv_templates[name].chat_template()
