"""Encoders in text form, to leave early."""

from __future__ import annotations

_CONSTANTS = """float[4] gamma = {1, 1.5, 0.5, 2}, float[4] beta = {0.1, 0.2, 0.3, 0.4},
    float[4,2] head = {...}, int64[2] axes = {1, 2}, int64[2] leading = {1, 1},
    int64[1] one = {1}, int64 first = {0}"""


def encoder(
    num_layers: int = 4, *, pre_norm: bool = False, inputs: str = "", last: str = ""
) -> str:
    """A classifier on position 0 of an encoder with a padding mask.

    Args:
        num_layers: its layers.
        pre_norm: whether each block normalizes what it reads, or else what it gives.
        inputs: further graph inputs, each with a comma before it.
        last: nodes that make ``states`` from the last layer's state ``end``.
    """
    body = [
        "h0 = Add (x, beta)" if pre_norm else "h0 = LayerNormalization (x, gamma, beta)",
        "keys = Unsqueeze (mask, axes)",
        "length = Shape <start = 1, end = 2> (mask)",
        "mask_shape = Concat <axis = 0> (leading, length, one)",
        "key_mask = Expand (keys, mask_shape)",
    ]
    weights = []
    for layer in range(1, num_layers + 1):
        block = _pre_norm_layer if pre_norm else _post_norm_layer
        body += [line.replace("#", str(layer)) for line in block(layer - 1)]
        weights += [f"float[4,4] {name}{layer} = {{...}}" for name in ("wq", "wk", "wv", "wo")]
        weights += [f"float[4,6] wf{layer} = {{...}}", f"float[6,4] wg{layer} = {{...}}"]
    end = f"h{num_layers}"
    normalized = f"states = LayerNormalization ({end}, gamma, beta)" if pre_norm else ""
    body += [last.format(end=end) or normalized or f"states = Identity ({end})"]
    body += ["cls = Gather <axis = 1> (states, first)", "logits = MatMul (cls, head)"]
    constants = ", ".join([_CONSTANTS, *weights])
    return (
        f"g (float[B,S,4] x, bool[B,S] mask{inputs}) => (float[B,2] logits) <{constants}>\n"
        + "{\n"
        + "\n".join(body)
        + "\n}"
    )


def _attention(read: str) -> list[str]:
    return [
        *(f"{name}# = MatMul ({read}, w{name}#)" for name in "qkv"),
        "c# = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (q#, k#, v#, key_mask)",
        "o# = MatMul (c#, wo#)",
    ]


def _feed_forward(read: str) -> list[str]:
    return [f"f# = MatMul ({read}, wf#)", "a# = Gelu (f#)", "d# = MatMul (a#, wg#)"]


def _post_norm_layer(before: int) -> list[str]:
    return [
        *_attention(f"h{before}"),
        f"r# = Add (o#, h{before})",
        "m# = LayerNormalization (r#, gamma, beta)",
        *_feed_forward("m#"),
        "t# = Add (d#, m#)",
        "h# = LayerNormalization (t#, gamma, beta)",
    ]


def _pre_norm_layer(before: int) -> list[str]:
    return [
        f"n# = LayerNormalization (h{before}, gamma, beta)",
        *_attention("n#"),
        f"m# = Add (o#, h{before})",
        "p# = LayerNormalization (m#, gamma, beta)",
        *_feed_forward("p#"),
        "h# = Add (d#, m#)",
    ]
