"""The example of the README: padding removal on a small untrained BERT."""

import torch
from transformers import BertConfig, BertModel

import dechaff

model = BertModel(BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4)).eval()
lengths = torch.tensor([32, 9, 20, 7])
attention_mask = (torch.arange(32) < lengths[:, None]).long()
batch = {"input_ids": torch.randint(1000, 2000, (4, 32)), "attention_mask": attention_mask}

optimized = dechaff.optimize(model, batch)
print(optimized.report)
print(optimized(**batch).last_hidden_state.shape)
