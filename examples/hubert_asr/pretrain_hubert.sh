#!/usr/bin/env bash
# Pre-train a small HuBERT, to be a teacher where none of the published ones can be had:
#
#   pretrain_hubert.sh OUT TRAIN.tsv[,MORE.tsv] DEV.tsv hf:whisper-base [options of fairseq-train]
#
# Frame labels are k-means clusters of a layer of another speech encoder (500, or $CLUSTERS, of layer 4, or $LAYER);
# HuBERT's own first round takes MFCCs instead. Then fairseq's own task, model and criterion: 6 layers of 192, 3 M
# parameters, a size for CPUs; options given last win, so a larger one needs no other script. Teacher:
# fairseq:OUT/hubert/checkpoint_best.pt. A run that was stopped goes on where it was.
set -euo pipefail
out=$1 train=$2 dev=$3 source=$4
shift 4

colld cluster --teacher "$source" --layer "${LAYER:-4}" --num-clusters "${CLUSTERS:-500}" --manifest "$train" \
  --out "$out/codes.safetensors" --labels "$out/labels" --label-manifests "train=$train" "valid=$dev"

fairseq-train "$out/labels" --user-dir colld_fairseq --task hubert_pretraining --labels '["km"]' --label-rate 50 \
  --sample-rate 16000 --max-sample-size 160000 --min-sample-size 8000 --random-crop \
  --criterion hubert --pred-masked-weight 1 --pred-nomask-weight 1 --loss-weights '[10]' \
  --arch hubert --extractor-mode default --conv-feature-layers '[(96,10,5)] + [(96,3,2)] * 4 + [(96,2,2)] * 2' \
  --encoder-layers 6 --encoder-embed-dim 192 --encoder-ffn-embed-dim 768 --encoder-attention-heads 4 --final-dim 96 \
  --untie-final-proj --mask-prob 0.4 --mask-length 10 --feature-grad-mult 1.0 \
  --dropout 0 --attention-dropout 0 --dropout-input 0 --dropout-features 0 --encoder-layerdrop 0 \
  --optimizer adam --adam-betas '(0.9,0.98)' --weight-decay 0.01 --clip-norm 5 --lr 1.5e-3 \
  --lr-scheduler polynomial_decay --warmup-updates 100 --total-num-update 1600 --max-update 1600 \
  --max-tokens 320000 --num-workers 1 --skip-invalid-size-inputs-valid-test \
  --log-format json --log-interval 25 --save-interval-updates 500 --keep-interval-updates 1 --no-epoch-checkpoints \
  --save-dir "$out/hubert" "$@"
