"""Writes four tiny models with random weights: the architectures, chat templates and end tokens of
the real ones, and nothing of what those have learnt. The same bytes on every run.

    models.py FOLDER
"""

import json
import pathlib
import random
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 768
HIDDEN, INNER, LAYERS, HEADS, HEAD = 128, 256, 2, 2, 64
EXPERTS = 4
WINDOW = 2048

# What the model cards say of a conversation, as templates.
MIXTRAL = (
    "{{ bos_token }}"
    "{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if m['role'] == 'user' %}{{ ' [INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
OPENCHAT = (
    "{{ bos_token }}"
    "{% for m in messages %}"
    "{{ 'GPT4 Correct ' + m['role'].title() + ': ' + m['content'] + '<|end_of_turn|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}"
)
PHI3 = (
    "{{ bos_token }}"
    "{% for m in messages %}"
    "{% if m['role'] in ['system', 'user', 'assistant'] %}"
    "{{ '<|' + m['role'] + '|>' + '\\n' + m['content'] + '<|end|>' + '\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' + '\\n' }}{% endif %}"
)

MODELS = {
    "mixtral": dict(seed=1, architecture="MixtralForCausalLM", type="mixtral", template=MIXTRAL,
                    specials=["<unk>", "<s>", "</s>"], eos="</s>"),
    "hermes": dict(seed=2, architecture="MistralForCausalLM", type="mistral", template=CHATML,
                   specials=["<unk>", "<s>", "</s>", "<|im_end|>", "<|im_start|>"], eos="<|im_end|>"),
    "openchat": dict(seed=3, architecture="MistralForCausalLM", type="mistral", template=OPENCHAT,
                     specials=["<unk>", "<s>", "</s>", "<|end_of_turn|>", "<|pad_0|>"], eos="<|end_of_turn|>"),
    "phi3": dict(seed=4, architecture="Phi3ForCausalLM", type="phi3", template=PHI3,
                 specials=["<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"],
                 eos="<|endoftext|>", stops=["<|end|>"]),
}


def corpus():
    """Sentences of made-up words with accents and signs of several bytes among them."""
    rng = random.Random(7)
    syllables = ["ka", "lo", "mi", "ren", "ta", "vo", "sil", "er", "an", "du", "é", "ß", "ø", "ñ"]
    words = ["".join(rng.choice(syllables) for _ in range(rng.randint(1, 4))) for _ in range(300)]
    words += ["the", "and", "of", "→", "✓", "你好", "🙂", "GPT4", "Correct", "User", "Assistant", "[INST]", "[/INST]"]
    return [" ".join(rng.choice(words) for _ in range(12)) + "." for _ in range(1500)]


def tokenizer(spec):
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=spec["specials"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    # A text that is completed begins with <s>, as with the real models.
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", t.token_to_id("<s>"))])
    assert t.get_vocab_size() == VOCABULARY, t.get_vocab_size()
    return t


def weights(spec):
    gen = torch.Generator().manual_seed(spec["seed"])

    def matrix(rows, columns, gain=1.0):
        return (torch.randn(rows, columns, generator=gen) * gain / columns**0.5).to(torch.bfloat16)

    ones = lambda: torch.ones(HIDDEN, dtype=torch.bfloat16)
    # Large logits: a continuation computed in another batch must not tip over at a near tie.
    w = {"model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN, HIDDEN**0.5), "model.norm.weight": ones(),
         "lm_head.weight": matrix(VOCABULARY, HIDDEN, 8.0)}
    width = HEADS * HEAD
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        w[at + "input_layernorm.weight"], w[at + "post_attention_layernorm.weight"] = ones(), ones()
        q, k, v, o = (matrix(width, HIDDEN, 2.0) for _ in range(4))
        w[at + "self_attn.o_proj.weight"] = o
        if spec["type"] == "phi3":
            w[at + "self_attn.qkv_proj.weight"] = torch.cat([q, k, v])
            w[at + "mlp.gate_up_proj.weight"] = matrix(2 * INNER, HIDDEN, 2.0)
            w[at + "mlp.down_proj.weight"] = matrix(HIDDEN, INNER, 2.0)
            continue
        w[at + "self_attn.q_proj.weight"], w[at + "self_attn.k_proj.weight"], w[at + "self_attn.v_proj.weight"] = q, k, v
        if spec["type"] == "mixtral":
            w[at + "block_sparse_moe.gate.weight"] = matrix(EXPERTS, HIDDEN, 4.0)
            for e in range(EXPERTS):
                expert = at + f"block_sparse_moe.experts.{e}."
                w[expert + "w1.weight"], w[expert + "w3.weight"] = matrix(INNER, HIDDEN, 2.0), matrix(INNER, HIDDEN, 2.0)
                w[expert + "w2.weight"] = matrix(HIDDEN, INNER, 2.0)
            continue
        w[at + "mlp.gate_proj.weight"], w[at + "mlp.up_proj.weight"] = matrix(INNER, HIDDEN, 2.0), matrix(INNER, HIDDEN, 2.0)
        w[at + "mlp.down_proj.weight"] = matrix(HIDDEN, INNER, 2.0)
    return w


def write(folder, name, spec):
    d = folder / name
    d.mkdir(parents=True, exist_ok=True)
    put = lambda file, v: (d / file).write_text(json.dumps(v, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    t = tokenizer(spec)
    t.save(str(d / "tokenizer.json"))
    eos = t.token_to_id(spec["eos"])
    put("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": spec["eos"], "unk_token": "<unk>",
        "model_max_length": WINDOW, "chat_template": spec["template"], "clean_up_tokenization_spaces": False})
    config = {
        "architectures": [spec["architecture"]], "model_type": spec["type"], "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": HEAD,
        "vocab_size": VOCABULARY, "max_position_embeddings": WINDOW, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": eos, "sliding_window": None}
    if spec["type"] == "mixtral":
        config |= {"num_local_experts": EXPERTS, "num_experts_per_tok": 2, "rope_theta": 1000000.0}
    if spec["type"] == "phi3":
        config |= {"original_max_position_embeddings": WINDOW, "pad_token_id": eos}
    put("config.json", config)
    stops = [eos] + [t.token_to_id(s) for s in spec.get("stops", [])]
    put("generation_config.json", {"bos_token_id": 1, "eos_token_id": stops if len(stops) > 1 else eos})
    save_file(weights(spec), str(d / "model.safetensors"), metadata={"format": "pt"})


def main():
    folder = pathlib.Path(sys.argv[1])
    for name, spec in MODELS.items():
        write(folder, name, spec)


main()
