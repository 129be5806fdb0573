#!/usr/bin/env bash
# Synapse (BTCV), from the downloaded volumes to a report: DSVM-UNet and its control, the plain VM-UNet.
#
#   examples/synapse.sh SOURCE DATASET_ID REPORT_FOLDER
#
#   SOURCE         the folder with img/ and label/ (of RawData.zip), or the preprocessed train_npz/, test_vol_h5/
#   DATASET_ID     a free number for nnU-Net, e.g. 220
#   REPORT_FOLDER  where report.html goes, and the predictions of the 12 test volumes
#
# Cross-validates on the 18 training volumes. Optional variables, those of five_fold.sh: TRAINERS, PLANS, DEVICE, FOLDS (all: one
# model of all 18 volumes, as in the papers; its validation says nothing). A second run goes on where the first stopped.
set -euo pipefail

if [ $# -ne 3 ]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 2
fi
here=$(dirname "$0") source=$1 dataset=$2 report=$3
: "${nnUNet_raw:?is not set: see documentation/setting_up_paths.md of nnU-Net}"

if [ ! -d "$nnUNet_raw/Dataset$(printf '%03d' "$((10#$dataset))")_Synapse" ]; then
    nnUNetv2_dsvm dataset synapse "$source" -d "$dataset"
fi
# The papers' numbers: Dice and HD95 in voxels per volume; of the cross-validation (in the report) and of the 12 test volumes.
PROTOCOL=synapse "$here/five_fold.sh" "$dataset" "$report"
"$here/test_set.sh" synapse "$dataset" "$report"
