#!/bin/sh
# Trains the whole mini bundle, stage by stage. Every stage goes on where it was stopped, so the same command resumes.
#
# ECHOGEN_TRAIN: folder of data and checkpoints (default: train/ in the repository). PYTHON: which Python.
# MINUTES_<STAGE>: stop a stage after so long, in place of running it to its last step.
set -eu
cd "$(dirname "$0")"
export ECHOGEN_TRAIN="${ECHOGEN_TRAIN:-$(cd .. && pwd)/train}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
PYTHON="${PYTHON:-python3}"

render() { # folder, pairs, further arguments
    folder="$ECHOGEN_TRAIN/data/$1" pairs="$2"
    shift 2
    [ -d "$folder" ] && return
    cargo run --release -q -p echogen-world --example render -- --out "$folder.partial" --count "$pairs" "$@"
    mv "$folder.partial" "$folder"
}

mkdir -p "$ECHOGEN_TRAIN/data"
render train "${PAIRS:-32768}" --seed 1
render held 1024 --held-out
# The same pairs as the encoder reads them and as the decoder draws them.
render decoder "${PAIRS_DECODER:-24576}" --seed 2
render fine "${PAIRS_DECODER:-24576}" --seed 2 --size 128
render held128 1024 --held-out --size 128
"$PYTHON" train_tokenizer.py --minutes "${MINUTES_TOKENIZER:-0}"
"$PYTHON" train_text_encoder.py --minutes "${MINUTES_TEXT_ENCODER:-0}"
"$PYTHON" train_dinov2.py --minutes "${MINUTES_DINOV2:-0}"
"$PYTHON" train_flux_vae.py --minutes "${MINUTES_FLUX_VAE:-0}"
"$PYTHON" features.py
"$PYTHON" train_markings.py --run critic --minutes "${MINUTES_CRITIC:-0}"
"$PYTHON" train_decoder.py --minutes "${MINUTES_DECODER:-0}"
"$PYTHON" train_transformer.py --minutes "${MINUTES_TRANSFORMER:-0}"
"$PYTHON" train_detector.py --minutes "${MINUTES_DETECTOR:-0}"
"$PYTHON" train_namer.py --minutes "${MINUTES_NAMER:-0}"
"$PYTHON" train_judge.py --minutes "${MINUTES_JUDGE:-0}"
"$PYTHON" train_markings.py --minutes "${MINUTES_MARKINGS:-0}"
"$PYTHON" plot.py
