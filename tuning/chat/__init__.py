"""How messages become the ids that a model is trained on, and later served with: the same ids, proven to be.

    messages        user 「1+1は？」                    assistant 「2です」
    the template    <s>\\n\\n### 指示:\\n1+1は？\\n\\n### 応答:\\n2です</s>
    trained on                                              ‾‾‾‾‾‾‾‾

`load_template` gives the format, `encode` the ids and targets, `prove` refuses to train if the released
tokenizer's `apply_chat_template` would give other ids, and `preview_html` shows a reader which characters
are trained on.

    template = load_template("llm-jp-v3")
    [sequence] = encode([{"role": "user", "content": "1+1は？"}, {"role": "assistant", "content": "2です"}],
                        tokenizer, template)
    sequence.input_ids, sequence.is_target
"""

from .encode import EncodedSequence, encode, encode_many, encode_pair, encode_prompt
from .preview import preview_html, preview_terminal, token_pieces
from .proof import ProofError, ProofReport, prove
from .templates import FIXED_SENTENCE, VERSION, ChatError, Template, load_template, template_names

__all__ = [
    "FIXED_SENTENCE",
    "VERSION",
    "ChatError",
    "EncodedSequence",
    "ProofError",
    "ProofReport",
    "Template",
    "encode",
    "encode_many",
    "encode_pair",
    "encode_prompt",
    "load_template",
    "preview_html",
    "preview_terminal",
    "prove",
    "template_names",
    "token_pieces",
]
