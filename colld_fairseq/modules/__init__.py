"""Plain ``torch.nn`` building blocks: front-ends, encoder blocks, masks, heads. Nothing here imports fairseq."""
