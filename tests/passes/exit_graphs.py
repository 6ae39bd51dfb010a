"""Encoders in text form, to leave early."""

from __future__ import annotations

import re

_VECTORS = "float[4] gamma = {1, 1.5, 0.5, 2}, float[4] beta = {0.1, 0.2, 0.3, 0.4}"
_CONSTANTS = _VECTORS + ", int64[2] axes = {1, 2}, int64[2] leading = {1, 1}, int64[1] one = {1}"
_KEY_MASK = (
    "keys = Unsqueeze (mask, axes)",
    "length = Shape <start = 1, end = 2> (mask)",
    "mask_shape = Concat <axis = 0> (leading, length, one)",
    "key_mask = Expand (keys, mask_shape)",
)


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
        *_KEY_MASK,
    ]
    weights = []
    for layer in range(1, num_layers + 1):
        block = _pre_norm_layer if pre_norm else _post_norm_layer
        body += [line.replace("#", str(layer)) for line in block(layer - 1)]
        weights += _weights(str(layer))
    end = f"h{num_layers}"
    normalized = f"states = LayerNormalization ({end}, gamma, beta)" if pre_norm else ""
    body += [last.format(end=end) or normalized or f"states = Identity ({end})"]
    body += ["cls = Gather <axis = 1> (states, first)", "logits = MatMul (cls, head)"]
    head = "float[4,2] head = {...}, int64 first = {0}"
    constants = ", ".join([_CONSTANTS, head, *weights])
    signature = [f"float[B,S,4] x, bool[B,S] mask{inputs}"]
    return _graph(signature, ["float[B,2] logits"], constants, body)


def _graph(inputs: list[str], outputs: list[str], constants: str, body: list[str]) -> str:
    nodes = "\n".join(body)
    return f"g ({', '.join(inputs)}) => ({', '.join(outputs)}) <{constants}>\n{{\n{nodes}\n}}"


def _weights(name: str) -> list[str]:
    """Of a layer."""
    square = [f"float[4,4] {kind}{name} = {{...}}" for kind in ("wq", "wk", "wv", "wo")]
    return [*square, f"float[4,6] wf{name} = {{...}}", f"float[6,4] wg{name} = {{...}}"]


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


def decoder(num_layers: int = 3) -> str:
    """One step of a decoder with a cache of keys and values, which it gives back longer."""
    inputs, outputs, weights = ["float[B,S,4] x"], ["float[B,S,5] logits"], []
    body = ["h0 = Add (x, beta)"]
    for layer in range(1, num_layers + 1):
        inputs += [f"float[B,P,4] past_key{layer}", f"float[B,P,4] past_value{layer}"]
        outputs += [f"float[B,R,4] key{layer}", f"float[B,R,4] value{layer}"]
        lines = _pre_norm_layer(layer - 1)
        place = next(index for index, line in enumerate(lines) if line.startswith("c# = "))
        lines[place : place + 1] = [
            "key# = Concat <axis = 1> (past_key#, k#)",
            "value# = Concat <axis = 1> (past_value#, v#)",
            "c# = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (q#, key#, value#)",
        ]
        body += [line.replace("#", str(layer)) for line in lines]
        weights += _weights(str(layer))
    body += [f"states = LayerNormalization (h{num_layers}, gamma, beta)"]
    body += ["logits = MatMul (states, classes)"]
    constants = ", ".join([_VECTORS, "float[4,5] classes = {...}", *weights])
    return _graph(inputs, outputs, constants, body)


def encoder_decoder(num_layers: int = 3, *, with_image: bool = False) -> str:
    """An encoder with a padding mask, and a decoder every layer of which attends to its end.

    With an image the encoder's weights encode it too, apart from the text, and the decoder attends
    to both (MuE, CVPR 2023, section 3.1).
    """
    inputs = ["float[B,S,4] x", "bool[B,S] mask", "float[B,U,4] y"]
    body = ["h0 = LayerNormalization (x, gamma, beta)", *_KEY_MASK]
    weights = []
    for layer in range(1, num_layers + 1):
        body += [line.replace("#", str(layer)) for line in _post_norm_layer(layer - 1)]
        weights += _weights(str(layer))
    if with_image:
        inputs.append("float[B,V,4] image")
        body += ["ih0 = LayerNormalization (image, gamma, beta)"]
        body += [line for layer in range(1, num_layers + 1) for line in _image_layer(layer)]
    memory = f"Concat <axis = 1> (ih{num_layers}, h{num_layers})"
    body += [
        f"memory = {memory}" if with_image else f"memory = Identity (h{num_layers})",
        "dh0 = Add (y, beta)",
        "queries = Shape <start = 1, end = 2> (y)",
        "cross_shape = Concat <axis = 0> (leading, queries, one)",
        "cross_mask = Expand (keys, cross_shape)",
    ]
    cross_mask = "" if with_image else ", cross_mask"
    for layer in range(1, num_layers + 1):
        name = f"d{layer}"
        body += [
            f"n{name} = LayerNormalization (dh{layer - 1}, gamma, beta)",
            *(f"{w}{name} = MatMul (n{name}, w{w}{name})" for w in "qkv"),
            f"c{name} = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5, is_causal = 1>"
            f" (q{name}, k{name}, v{name})",
            f"s{name} = Add (c{name}, dh{layer - 1})",
            f"qc{name} = MatMul (s{name}, wq{name})",
            f"kc{name} = MatMul (memory, wk{name})",
            f"vc{name} = MatMul (memory, wv{name})",
            f"cc{name} = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5>"
            f" (qc{name}, kc{name}, vc{name}{cross_mask})",
            f"o{name} = MatMul (cc{name}, wo{name})",
            f"dh{layer} = Add (o{name}, s{name})",
        ]
        weights += _weights(name)
    body += [f"z = LayerNormalization (dh{num_layers}, gamma, beta)"]
    body += ["logits = MatMul (z, classes)"]
    constants = ", ".join([_CONSTANTS, "float[4,5] classes = {...}", *weights])
    return _graph(inputs, ["float[B,U,5] logits"], constants, body)


def _image_layer(layer: int) -> list[str]:
    """A layer over an image, which has no padding, with the weights of the text's layer."""
    lines = []
    for line in _post_norm_layer(layer - 1):
        result, _, rest = line.partition(" = ")
        rest = re.sub(r"\b(h\d+|[qkvcormtfad]#)", r"i\1", rest.replace(", key_mask", ""))
        lines.append(f"i{result} = {rest}".replace("#", str(layer)))
    return lines
