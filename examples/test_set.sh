#!/usr/bin/env bash
# The test set, predicted by trainers that five_fold.sh has trained (the ensemble of the folds that all of them have
# finished), and measured by a paper's protocol if its labels are there.
#
#   examples/test_set.sh PROTOCOL DATASET_ID OUTPUT_FOLDER
#
#   PROTOCOL       nnunet, isic or synapse
#   DATASET_ID     as for five_fold.sh
#   OUTPUT_FOLDER  where the predictions go, a folder per trainer and folds in test/
#
# Optional variables, as for five_fold.sh: TRAINERS, FOLDS (all of these must be finished), PLANS, DEVICE.
set -euo pipefail

if [ $# -ne 3 ]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 2
fi
for variable in nnUNet_raw nnUNet_results; do
    case ${!variable:-} in # what nnU-Net would take as it is
        '' | [\"\'~]* | *[\"\'] | [[:space:]]* | *[[:space:]] | *\$[A-Za-z{]*)
            echo "$variable is '${!variable:-}', expected a path (no quotes, ~, \$NAME, or blanks at its ends)" >&2
            exit 1
            ;;
    esac
done
protocol=$1 dataset=$2 output=$3
read -ra trainers <<<"${TRAINERS:-nnUNetTrainerDSVM nnUNetTrainerVMUNet}"
read -ra asked <<<"${FOLDS:-0 1 2 3 4}"
plans=${PLANS:-nnUNetPlans}
name=$(cd "$nnUNet_raw" && printf '%s\n' Dataset"$(printf '%03d' "$((10#$dataset))")"_*/ | head -n 1) name=${name%/}
raw=$nnUNet_raw/$name

if [ ! -f "$raw/dataset.json" ]; then
    echo "there is no dataset $dataset in $nnUNet_raw" >&2
    exit 1
fi
if [ ! -d "$raw/imagesTs" ]; then
    echo "$raw has no imagesTs: there is no test set to predict"
    exit
fi
folds=()
for fold in "${asked[@]}"; do
    for trainer in "${trainers[@]}"; do
        [ -f "$nnUNet_results/$name/${trainer}__${plans}__2d/fold_$fold/checkpoint_final.pth" ] || continue 2
    done
    folds+=("$fold")
done
if [ "${#folds[@]}" -eq 0 ] || { [ -n "${FOLDS:-}" ] && [ "${#folds[@]}" -lt "${#asked[@]}" ]; }; then
    echo "of the folds ${asked[*]}, finished by ${trainers[*]} ($plans): ${folds[*]:-none}. five_fold.sh trains them" >&2
    exit 1
fi
echo "Finished folds: ${folds[*]}"
model=(-p "$plans" -c 2d -f "${folds[@]}")
predicted=()
for trainer in "${trainers[@]}"; do
    folder=$output/test/${trainer}_folds_$(IFS=_ && echo "${folds[*]}")
    predicted+=("$folder")
    nnUNetv2_predict -d "$dataset" -i "$raw/imagesTs" -o "$folder" -tr "$trainer" "${model[@]}" -device "${DEVICE:-cuda}"
done
if [ -d "$raw/labelsTs" ]; then
    nnUNetv2_dsvm evaluate "$raw/labelsTs" "${predicted[@]}" --protocol "$protocol"
fi
