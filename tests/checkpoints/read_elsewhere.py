"""Ask an exported checkpoint with whatever transformers is there: read_elsewhere.py FOLDER IMAGE; prints JSON."""

from __future__ import annotations

import json
import sys

import PIL.Image
import torch
import transformers
import transformers.utils.import_utils

# Versions 4 import timm wherever it is, and timm wants torchvision: neither is needed for LLaVA.
transformers.utils.import_utils._timm_available = False
from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402

QUESTIONS = ["What is in  the picture?", "", "naïve </s> text", "How old is the person?\nAnswer"]


def ask(folder: str, image: str) -> dict[str, object]:
    """Return what a version makes of questions about an image: ids, pixels, greedy tokens, the first logits."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, torch_dtype=torch.float32).eval()
    picture = PIL.Image.open(image).convert("RGB")
    found: list[dict[str, object]] = []
    for question in QUESTIONS:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=prompt, images=picture, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1, :50]
            tokens = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
        pixels = inputs["pixel_values"]
        found.append(
            {
                "ids": inputs["input_ids"][0].tolist(),
                "names": sorted(inputs),
                "pixels": pixels[0, :, ::9, ::9].flatten().tolist(),
                "tokens": tokens.tolist(),
                "logits": logits.tolist(),
            }
        )
    turns = [("user", "Hi."), ("assistant", "Hello."), ("user", "Bye?")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    chat = processor.apply_chat_template(messages, add_generation_prompt=True)
    ids = processor.tokenizer(chat)["input_ids"]
    return {"version": transformers.__version__, "answers": found, "several_turns": ids}


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1], sys.argv[2])))
