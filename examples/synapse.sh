#!/usr/bin/env bash
# DSVM-UNet on Synapse multi-organ (BTCV), from the downloaded files: TransUNet's eight organs, 18 training and 12 test
# volumes.
#
#   examples/synapse.sh SOURCE
#
#   SOURCE  the folder with img/ and label/ (NIfTI), or with TransUNet's train_npz/, test_vol_h5/ and lists_Synapse/
#
# Optional variable: DATASET (default 5).
set -euo pipefail

if [ $# -lt 1 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
fi
dataset=${DATASET:-5}

nnUNetv2_dsvm dataset synapse "$1" -d "$dataset"
nnUNetv2_plan_and_preprocess -d "$dataset" -c 2d --clean
