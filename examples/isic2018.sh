#!/usr/bin/env bash
# DSVM-UNet on ISIC 2018 (lesion segmentation), from the downloaded folders to predictions, at 256×256 as in the papers.
#
#   examples/isic2018.sh SOURCE [OUTPUT_FOLDER]
#
#   SOURCE         the folder with the challenge's unpacked ISIC2018_Task1-2_Training_Input,
#                  ISIC2018_Task1_Training_GroundTruth and so on, or VM-UNet's folder with train/ and val/ (7:3)
#   OUTPUT_FOLDER  where the predictions for the challenge's test set go (default: isic2018_test)
#
# Optional variables: DATASET (default 18), SIZE (256), TRAINER (nnUNetTrainerDSVM), DEVICE (cuda, cpu or mps; cuda).
# The validation of fold 0 is the challenge's validation set, or VM-UNet's val/, on which the papers report.
set -euo pipefail

if [ $# -lt 1 ]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 2
fi
source=$1 output=${2:-isic2018_test}
dataset=${DATASET:-18}
trainer=${TRAINER:-nnUNetTrainerDSVM}
device=${DEVICE:-cuda}

nnUNetv2_dsvm dataset isic2018 "$source" -d "$dataset" --resize "${SIZE:-256}"
nnUNetv2_plan_and_preprocess -d "$dataset" -c 2d --clean
nnUNetv2_train "$dataset" 2d 0 -tr "$trainer" -device "$device" --c

raw=$nnUNet_raw/Dataset$(printf '%03d' "$dataset")_ISIC2018
if [ -d "$raw/imagesTs" ]; then
    nnUNetv2_predict -d "$dataset" -i "$raw/imagesTs" -o "$output" -c 2d -f 0 -tr "$trainer" -device "$device"
fi
