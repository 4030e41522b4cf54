#!/usr/bin/env bash
# transformers 5.20.2: AutoTokenizer takes only vocabulary and merges out of a tokenizer.json whose tokenizer_config.json
# names LlamaTokenizer, and builds the rest anew: the normalizer of the file is not used. 4.57.6 used it. Here the file
# puts a space before each text (Prepend and Replace, as transformers 4 wrote Llama's tokenizers that name no `legacy`);
# version 5 gives other ids for what follows a special token, without a word.
# PreTrainedTokenizerFast reads the file as it is, in both versions.
# Run it without arguments; it installs the published packages into a temporary folder, and fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/cut.py" << 'PYTHON'
import importlib.metadata
import json
import pathlib
import sys

from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

folder = pathlib.Path(sys.argv[1])
folder.mkdir()
vocabulary = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "▁b"]
file = Tokenizer(
    models.BPE({piece: number for number, piece in enumerate(vocabulary)}, [("▁", "a"), ("▁", "b")], unk_token="<unk>")
)
file.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
file.decoder = decoders.Metaspace()
file.add_special_tokens(vocabulary[:3])
file.save(str(folder / "tokenizer.json"))
names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
(folder / "tokenizer_config.json").write_text(json.dumps(names))

text, version = "a</s>b", importlib.metadata.version("transformers")
ids = {
    "tokenizer.json": file.encode(text).ids,
    "AutoTokenizer": AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False).input_ids,
    "PreTrainedTokenizerFast": PreTrainedTokenizerFast.from_pretrained(folder)(text).input_ids,
}
print(f"transformers {version}:", ids)
assert ids["tokenizer.json"] == ids["PreTrainedTokenizerFast"] == [6, 2, 7]
assert ids["AutoTokenizer"] == {"4.57.6": [6, 2, 7], "5.20.2": [6, 2, 5]}[version], "AutoTokenizer reads it otherwise now"
PYTHON
for version in 4.57.6 5.20.2; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" -q install "transformers==$version"
    "$work/$version/bin/python" "$work/cut.py" "$work/folder-$version" 2> "$work/log" || { cat "$work/log"; exit 1; }
done
