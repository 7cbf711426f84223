"""Every file format of encoders, with our names as the only hub.

`encoder.read_encoder("hf:DIR" | "fairseq:FILE.pt" | "fairseq2:FILE.pt" | "colld:FILE.pt")` gives configuration, input
and weights as the student encoder has them; `write_encoder` is the way back. A format is one file `names_*.py` and a
line in `encoder.FORMATS`.
"""
