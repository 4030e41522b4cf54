"""Chat templates that the published models are asked with, in Jinja.

Each gives the string that the released evaluation script (PRISM_evaluation/main.py, commits 31e30da and 8a71d55) sends
for a picture and a question; where each was seen is in docs/models.md. A message's content is a list of parts of type
``image`` and ``text``; the pictures come first, whatever their order. They are used by converted checkpoints and tiny
models, and a checkpoint's own template is compared with them.
"""

from __future__ import annotations

from safe_llava.checkpoints.chat_templates import CHATML_CHAT_TEMPLATE

# The system message that InternVL2.5's own `conversation.py` carries, and InternVL3's.
INTERNVL_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
ASSISTANT_SYSTEM = "You are a helpful assistant."


def _parts(kind: str, written: str) -> str:
    return f"{{%- for part in message['content'] if part['type'] == '{kind}' -%}}{{{{- {written} -}}}}{{%- endfor -%}}"


def _default_system(system: str) -> str:
    return (
        "{%- if messages[0]['role'] != 'system' -%}"
        f"{{{{- '<|im_start|>system\\n{system}<|im_end|>\\n' -}}}}"
        "{%- endif -%}"
    )


_EACH, _END = "{%- for message in messages -%}", "{%- endfor -%}"


def _answer(opening: str) -> str:
    return f"{{%- if add_generation_prompt -%}}{{{{- '{opening}' -}}}}{{%- endif -%}}"


def _chatml(image: str, system: str | None = None) -> str:
    """Return ChatML, with a system message of its own where one is given; ``image`` is a picture's placeholder."""
    return (
        ("" if system is None else _default_system(system))
        + _EACH
        + "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
        + _parts("image", f"'{image}'")
        + _parts("text", "part['text']")
        + "{{- '<|im_end|>\\n' -}}"
        + _END
        + _answer("<|im_start|>assistant\\n")
    )


LLAVA = (
    _EACH
    + "{%- if message['role'] != 'system' -%}{{- message['role'] | upper + ': ' -}}{%- endif -%}"
    + _parts("image", "'<image>\\n'")
    + _parts("text", "part['text'] + ' '")
    + _END
    + _answer("ASSISTANT:")
)
LLAVA_ONEVISION = (
    _EACH
    + "{{- '<|im_start|>' + message['role'] + ' ' -}}"
    + _parts("image", "'<image>'")
    + _parts("text", "'\\n' + part['text']")
    + "{{- '<|im_end|>' -}}"
    + _END
    + _answer("<|im_start|>assistant\\n")
)
# Gemma has no turn for the system: its message opens the user's.
GEMMA3 = (
    "{{- bos_token -}}"
    "{%- set opening = namespace(text='') -%}"
    + _EACH
    + "{%- if message['role'] == 'system' -%}"
    + "{%- set opening.text = message['content'][0]['text'] + '\\n\\n' -%}"
    + "{%- else -%}"
    + "{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' + opening.text -}}"
    + "{%- set opening.text = '' -%}"
    + _parts("image", "'<start_of_image>'")
    + _parts("text", "part['text'] | trim")
    + "{{- '<end_of_turn>\\n' -}}"
    + "{%- endif -%}"
    + _END
    + _answer("<start_of_turn>model\\n")
)
KNOWN = {
    "llava": LLAVA,
    "llava_onevision": LLAVA_ONEVISION,
    "qwen_1_5": CHATML_CHAT_TEMPLATE.replace("SYSTEM_SENTENCE", ASSISTANT_SYSTEM),
    "gemma3": GEMMA3,
    "qwen2_5_vl": _chatml("<|vision_start|><|image_pad|><|vision_end|>", ASSISTANT_SYSTEM),
    "internvl": _chatml("<IMG_CONTEXT>\\n"),
    "internvl2_5": _chatml("<IMG_CONTEXT>\\n", INTERNVL_SYSTEM),
}
