#!/bin/bash
# A training as a job of a Ray cluster; the answer is the job's log, which ends with it.
#
#   RAY_API_SERVER_ADDRESS=http://HEAD:8265 examples/cluster/ray_submit.sh \
#     examples/cluster/spacevllm_qwen3_vl_lora_ray.yaml ray_num_workers=16 output_dir=/shared/saves/mine
#
# For a cluster that has this folder under the same path on each node (`pip install "ray[default]"` here and on the head, the plugin
# on all). The job runs wherever Ray likes, and so do its workers: relative paths of the recipe would start there, so the folders of the
# recipe are given in full here. Interrupted here, the job goes on there: `ray job logs`, `ray job stop`.
set -euo pipefail
if [ $# -eq 0 ]; then
    echo "usage: RAY_API_SERVER_ADDRESS=http://HEAD:8265 $0 RECIPE.yaml [KEY=VALUE ...]" >&2
    exit 2
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
recipe=$(realpath "$1")
ray job submit --runtime-env-json '{"env_vars": {"USE_RAY": "1"}}' -- \
    llamafactory-cli train "$recipe" "dataset_dir=$root/data_info" "output_dir=$root/saves/ray" "${@:2}"
