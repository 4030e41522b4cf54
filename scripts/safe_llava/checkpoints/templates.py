"""How conversations are written down: the templates of training, and those that published models are asked with.

In training a template is a row of strings (``Template``), with the same in Jinja for the processor of the exported
checkpoint: a message's content there is a text or a list of parts of type ``image`` and ``text``. ``SYSTEM_SENTENCE``
is filled in. None writes the beginning-of-sequence token, as the tokenizer adds it.

``KNOWN`` holds, by name, the Jinja that gives the string which the released evaluation script
(PRISM_evaluation/main.py, commits 31e30da and 8a71d55) sends for an image and a question; where each was seen is in
docs/models.md. The images come first there, whatever their order. They are used by converted checkpoints and tiny
models, and a checkpoint's own template is compared with them.
"""

from __future__ import annotations

from dataclasses import dataclass

EOS = "</s>"  # what ends an answer of Vicuna's
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CHATML_SYSTEM = "You are a helpful assistant."

# The images in front of a text, in Jinja.
SHOWN = "('<image>\\n' * part.images + (part.text | trim)) | trim"
# Sets part.text to the text of `message`, its image placeholder in front as training has it.
_READ_CONTENT = (
    "{%- set part = namespace(text='', images=0) -%}"
    "{%- if message['content'] is string -%}"
    "{%- set part.text = message['content'] -%}"
    "{%- else -%}"
    "{%- for item in message['content'] -%}"
    "{%- if item['type'] == 'text' -%}{%- set part.text = part.text + item['text'] -%}"
    "{%- elif item['type'] in ['image', 'image_url'] -%}{%- set part.images = part.images + 1 -%}"
    "{%- else -%}{{- raise_exception('only text and image parts are known, not ' + item['type']) -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{%- if '<image>' in part.text -%}"
    "{%- set part.images = part.images if part.images else 1 -%}"
    "{%- set part.text = part.text | replace('<image>', '') -%}"
    "{%- endif -%}"
    "{%- if part.images -%}"
    f"{{%- set part.text = {SHOWN} -%}}"
    "{%- endif -%}"
)
_UNKNOWN_ROLE = "{%- else -%}{{- raise_exception('only system, user and assistant speak, not ' + message['role']) -}}"


def _turns(system: str, user: str, assistant: str, prompt: str) -> str:
    """Return the loop over the messages; the arguments write one turn of each role from ``part.text``."""
    default = "{%- if messages[0]['role'] != 'system' -%}{%- set part = namespace(text='SYSTEM_SENTENCE') -%}"
    return (
        f"{default}{system}{{%- endif -%}}"
        f"{{%- for message in messages -%}}{_READ_CONTENT}"
        f"{{%- if message['role'] == 'system' -%}}{system}"
        f"{{%- elif message['role'] == 'user' -%}}{user}"
        f"{{%- elif message['role'] == 'assistant' -%}}{assistant}"
        f"{_UNKNOWN_ROLE}{{%- endif -%}}{{%- endfor -%}}"
        f"{{%- if add_generation_prompt -%}}{prompt}{{%- endif -%}}"
    )


VICUNA_CHAT_TEMPLATE = _turns(
    system="{{- part.text + ' ' -}}",
    user="{{- 'USER:' -}}{%- if part.text -%}{{- ' ' + part.text + ' ' -}}{%- endif -%}",
    assistant="{{- 'ASSISTANT:' -}}{%- if part.text -%}{{- ' ' + part.text + '</s>' -}}{%- endif -%}",
    prompt="{{- 'ASSISTANT:' -}}",
)
CHATML_CHAT_TEMPLATE = _turns(
    system="{{- '<|im_start|>system\\n' + part.text + '<|im_end|>\\n' -}}",
    user="{{- '<|im_start|>user\\n' + part.text + '<|im_end|>\\n' -}}",
    assistant="{{- '<|im_start|>assistant\\n' + part.text + '<|im_end|>\\n' -}}",
    prompt="{{- '<|im_start|>assistant\\n' -}}",
)
# The model of the pretrain stage has seen an image and its caption: all that a user says is dropped but the image.
PLAIN_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    f"{_READ_CONTENT}"
    "{%- if message['role'] == 'assistant' -%}{{- part.text + '\\n' -}}"
    "{%- elif message['role'] == 'user' and part.images -%}{{- '<image>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
)


@dataclass(frozen=True)
class Template:
    """How a conversation is written down for a language model.

    Attributes:
        system: what stands before the first turn, with its separator.
        human, gpt: what opens a turn of each speaker.
        gap: between the opening and the text of a turn.
        human_end, gpt_end: what closes a turn; ``gpt_end`` is supervised with the answer.
        gpt_tail: what follows a closed answer and is not supervised.
        close_empty: whether a turn without text is closed (otherwise it is its opening alone).
        separate_answers: whether an answer is tokenised apart from what stands before it.
        counts_rounds: whether the original has this template, with its check of round lengths.
        chat_template: the same in Jinja, for the processor of an exported checkpoint. It writes no ``<s>``: the
            tokenizer adds it, so tokenise its output with special tokens on.
    """

    name: str
    chat_template: str
    system: str = ""
    human: str = ""
    gpt: str = ""
    gap: str = ""
    human_end: str = ""
    gpt_end: str = ""
    gpt_tail: str = ""
    close_empty: bool = False
    separate_answers: bool = False
    counts_rounds: bool = False


PLAIN = Template("plain", PLAIN_CHAT_TEMPLATE, gpt_end="\n")
V1 = Template(
    "v1",
    VICUNA_CHAT_TEMPLATE.replace("SYSTEM_SENTENCE", VICUNA_SYSTEM.replace("'", "\\'")),
    system=f"{VICUNA_SYSTEM} ",
    human="USER:",
    gpt="ASSISTANT:",
    gap=" ",
    human_end=" ",
    gpt_end=EOS,
    counts_rounds=True,
)
# Ours: the original has no ChatML. An answer is a chunk of its own, because generation starts after "assistant\n" and
# a byte-level tokenizer would otherwise join that newline to an answer that begins with one.
QWEN_1_5 = Template(
    "qwen_1_5",
    CHATML_CHAT_TEMPLATE.replace("SYSTEM_SENTENCE", CHATML_SYSTEM),
    system=f"<|im_start|>system\n{CHATML_SYSTEM}<|im_end|>\n",
    human="<|im_start|>user\n",
    gpt="<|im_start|>assistant\n",
    human_end="<|im_end|>\n",
    gpt_end="<|im_end|>",
    gpt_tail="\n",
    close_empty=True,
    separate_answers=True,
)
TEMPLATES: dict[str, Template] = {template.name: template for template in (PLAIN, V1, QWEN_1_5)}

# The system message that InternVL2.5's own `conversation.py` carries, and InternVL3's.
INTERNVL_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)


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
    """Return ChatML, with a system message of its own where one is given; ``image`` is an image's placeholder."""
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
    "qwen_1_5": QWEN_1_5.chat_template,
    "gemma3": GEMMA3,
    "qwen2_5_vl": _chatml("<|vision_start|><|image_pad|><|vision_end|>", CHATML_SYSTEM),
    "internvl": _chatml("<IMG_CONTEXT>\\n"),
    "internvl2_5": _chatml("<IMG_CONTEXT>\\n", INTERNVL_SYSTEM),
}
