"""Goes on with the selection on the first of every month, over the shards that are there by then.

Every month has an output of its own, complete in itself, which goes on from that of the month before: only new shards are
read, embedded and scored, what was selected stays, and `budget_tokens` more are selected. Copy the file to the DAGs folder and set the project, region, bucket and image as parameters of the DAG; see
`templates/dataflow/README.md` for the image and the template.
"""

import datetime

from airflow.providers.google.cloud.operators.dataflow import DataflowStartFlexTemplateOperator
from airflow.sdk import DAG

with DAG(
    dag_id="beam_quad_monthly_refresh",
    schedule="0 3 1 * *",
    start_date=datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    # Two runs at once would both make what they share.
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": datetime.timedelta(minutes=10)},
    params={
        "project": "PROJECT",
        "region": "us-central1",
        "bucket": "BUCKET",
        "image": "us-central1-docker.pkg.dev/PROJECT/beam-quad/quad:latest",
        "budget_tokens": "+1B",
    },
    tags=["beam_quad"],
):
    DataflowStartFlexTemplateOperator(
        task_id="select",
        project_id="{{ params.project }}",
        location="{{ params.region }}",
        # Waits in the triggerer, which costs no worker, until the job has ended.
        deferrable=True,
        body={
            "launchParameter": {
                "jobName": "quad-{{ data_interval_end | ds_nodash }}",
                "containerSpecGcsPath": "gs://{{ params.bucket }}/templates/quad.json",
                "parameters": {
                    "input": "gs://{{ params.bucket }}/corpus/*.parquet",
                    "query": "gs://{{ params.bucket }}/targets/*.jsonl",
                    "output": "gs://{{ params.bucket }}/selections/{{ data_interval_end | ds }}",
                    "base": "gs://{{ params.bucket }}/selections",
                    "artifacts": "gs://{{ params.bucket }}/artifacts",
                    "budget_tokens": "{{ params.budget_tokens }}",
                    "proxy_model": "HuggingFaceTB/SmolLM2-135M",
                    "device": "cuda",
                    "threads": "4",
                    "accelerator": (
                        "type:nvidia-l4;count:1;machine_type:g2-standard-8;install-nvidia-driver"
                    ),
                },
                "environment": {
                    "sdkContainerImage": "{{ params.image }}",
                    "tempLocation": "gs://{{ params.bucket }}/temporary",
                    "stagingLocation": "gs://{{ params.bucket }}/staging",
                    "additionalExperiments": ["no_use_multiple_sdk_containers"],
                    "machineType": "n2-highmem-4",
                    "maxWorkers": 100,
                    "diskSizeGb": 100,
                    "launcherMachineType": "n2-standard-4",
                },
            }
        },
    )
