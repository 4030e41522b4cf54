"""The training prompts in Jinja, for the processor of an exported checkpoint.

A message's content is a text or a list of parts of type ``image`` and ``text``. ``SYSTEM_SENTENCE`` is filled in by
``conversation``. None writes the beginning-of-sequence token, as the tokenizer adds it.
"""

from __future__ import annotations

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
    "{%- set part.text = ('<image>\\n' * part.images + (part.text | trim)) | trim -%}"
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
