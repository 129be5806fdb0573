#!/usr/bin/env bash
# ISIC 2018 at 256×256, from the downloaded folders to a report: DSVM-UNet and its control, the plain VM-UNet.
#
#   examples/isic2018.sh SOURCE DATASET_ID REPORT_FOLDER
#
#   SOURCE         the challenge's folders (…_Input, …_GroundTruth), or VM-UNet's train/ and val/ with images/ and masks/
#   DATASET_ID     a free number for nnU-Net, e.g. 218
#   REPORT_FOLDER  where report.html goes, and the predictions of the challenge's test set
#
# Optional variables: SIZE (edge of the images in pixels, default 256), and those of five_fold.sh: TRAINERS, PLANS, DEVICE.
# Fold 0 validates on the challenge's validation set, or on val/. A second run goes on where the first was interrupted.
set -euo pipefail

if [ $# -ne 3 ]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 2
fi
here=$(dirname "$0") source=$1 dataset=$2 report=$3
: "${nnUNet_raw:?is not set: see documentation/setting_up_paths.md of nnU-Net}"

# To convert again, at another size for instance, delete the dataset first.
if [ ! -d "$nnUNet_raw/Dataset$(printf '%03d' "$((10#$dataset))")_ISIC2018" ]; then
    nnUNetv2_dsvm dataset isic2018 "$source" -d "$dataset" --resize "${SIZE:-256}"
fi
# The papers' numbers: one confusion matrix over the pixels of all images; of the validation (in the report) and of the test set.
FOLDS=0 PROTOCOL=isic "$here/five_fold.sh" "$dataset" "$report"
FOLDS=0 "$here/test_set.sh" isic "$dataset" "$report"
