"""NanoChat of transformers, whose network is that of our `gpt`, with the same weights: what `generate` makes a second.

Its rotation runs the other way round, which is ours with the halves of queries and keys exchanged.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import NanoChatConfig, NanoChatForCausalLM

folder, threads, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
asked = json.loads((folder / "asked.json").read_text())
card = json.loads((folder / "config.json").read_text())
sizes, spec = card["config"], card["spec"]
layers, heads, width = sizes["layers"], sizes["heads"], sizes["width"]
weights = load_file(folder / "model.safetensors")
vocabulary = weights["network.embedding.weight"].shape[0]
model = NanoChatForCausalLM(
    NanoChatConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=spec["context"], final_logit_softcapping=None,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=None, rms_norm_eps=1.1920929e-07,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
).eval()  # fmt: skip
state = model.state_dict()


def halves_exchanged(matrix: torch.Tensor) -> torch.Tensor:
    one, other = matrix.unflatten(0, (heads, 2, -1)).unbind(1)
    return torch.stack([other, one], dim=1).flatten(0, 2)


state["model.embed_tokens.weight"].copy_(weights["network.embedding.weight"])
for layer in range(layers):
    query, key, value = weights[f"network.blocks.{layer}.attend.weight"].chunk(3)
    place = f"model.layers.{layer}"
    state[f"{place}.self_attn.q_proj.weight"].copy_(halves_exchanged(query))
    state[f"{place}.self_attn.k_proj.weight"].copy_(halves_exchanged(key))
    state[f"{place}.self_attn.v_proj.weight"].copy_(value)
    state[f"{place}.self_attn.o_proj.weight"].copy_(weights[f"network.blocks.{layer}.joined.weight"])
    state[f"{place}.mlp.fc1.weight"].copy_(weights[f"network.blocks.{layer}.wide.weight"])
    state[f"{place}.mlp.fc2.weight"].copy_(weights[f"network.blocks.{layer}.narrow.weight"])
told = {}
with torch.inference_mode():
    logits = model(torch.tensor([asked["tokens"]])).logits[0, -1]
    told["logits"] = logits.tolist()
    for rows in asked["rows"]:
        prompt = torch.full((rows, 1), asked["tokens"][0])
        options = {"max_new_tokens": asked["count"], "do_sample": True, "top_k": 0, "top_p": 1.0}
        model.generate(prompt, **{**options, "max_new_tokens": 4})
        told[str(rows)] = []
        for _ in range(rounds):
            begun = time.perf_counter()
            model.generate(prompt, **options)
            told[str(rows)].append(rows * asked["count"] / (time.perf_counter() - begun))
(folder / "told.json").write_text(json.dumps(told))
