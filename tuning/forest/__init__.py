"""Groups of token sequences that share beginnings, packed so that every shared beginning is computed once.

A preference pair is one prompt with two answers, an OpenAssistant tree is itself, a plain dialogue is a path.
A trie merges the common prefixes of a group exactly, by token equality, and is laid out depth first in one
flat row:

    prompt    A B C            input_ids     A B C d e f g h
    chosen          d e        position_ids  0 1 2 3 4 3 4 5    depth on the path
    rejected        f g h      subtree_end   8 8 8 5 5 8 8 8    exclusive end of what descends from the token

    query q sees key k   iff   k <= q < subtree_end[k]

That one rule is causal attention, packing without leaks and prefix sharing at once. `mask.dense_mask` is the
rule itself and the slow twin; `batch.Layout` is the same visibility as runs of queries with gathered keys,
which one variable-length attention call computes. It is exact because a causal model's state depends on its
prefix alone.
"""

from tuning.forest.packing import partition
from tuning.forest.trie import Sequence, Tree, grow

__all__ = ["Sequence", "Tree", "grow", "partition"]
