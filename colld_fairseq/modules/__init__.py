"""Plain `torch.nn` parts: front-ends, encoder blocks, masks, heads. Nothing here imports fairseq."""
