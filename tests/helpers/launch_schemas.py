"""What JobSet v1alpha2 and SkyPilot 0.14 read, without keys that we do not use.

Kubernetes' own part of a JobSet, the template of its Jobs, is checked against
Kubernetes' schemas instead.
"""


def _object(required, **properties):
  return {
    "type": "object",
    "properties": properties,
    "required": required.split(),
    "additionalProperties": False,
  }


def _array(items):
  return {"type": "array", "items": items, "minItems": 1}


_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 0}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_STATUS = {"type": "integer", "minimum": 0, "maximum": 255}

_RULE = _object(
  "name action",
  name={
    "type": "string",
    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
  },
  action={
    "enum": [
      "FailJobSet",
      "RestartJobSet",
      "RestartJobSetAndIgnoreMaxRestarts",
    ]
  },
  # The reasons of a failed Job, in Kubernetes' batch/v1.
  onJobFailureReasons=_array(
    {
      "enum": [
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "FailedIndexes",
        "MaxFailedIndexesExceeded",
        "PodFailurePolicy",
      ]
    }
  ),
  targetReplicatedJobs=_array(_TEXT),
)
JOBSET = _object(
  "apiVersion kind metadata spec",
  apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
  kind={"const": "JobSet"},
  metadata=_object(
    "name", name=_TEXT, namespace=_TEXT, labels=_TEXTS, annotations=_TEXTS
  ),
  spec=_object(
    "replicatedJobs",
    failurePolicy=_object("", maxRestarts=_COUNT, rules=_array(_RULE)),
    network=_object(
      "",
      enableDNSHostnames={"type": "boolean"},
      publishNotReadyAddresses={"type": "boolean"},
      subdomain=_TEXT,
    ),
    replicatedJobs=_array(
      _object(
        "name template",
        name=_TEXT,
        replicas=_COUNT,
        template={"type": "object"},
      )
    ),
    suspend={"type": "boolean"},
    ttlSecondsAfterFinished=_COUNT,
  ),
)

SKY = _object(
  "resources run",
  name=_TEXT,
  num_nodes={"type": "integer", "minimum": 1},
  workdir=_TEXT,
  resources=_object(
    "accelerators",
    infra=_TEXT,
    accelerators=_TEXT,
    use_spot={"type": "boolean"},
    job_recovery=_object(
      "",
      strategy=_TEXT,
      max_restarts_on_errors=_COUNT,
      recover_on_exit_codes={**_array(_STATUS), "uniqueItems": True},
    ),
    disk_size=_COUNT,
    image_id=_TEXT,
  ),
  envs={
    "type": "object",
    "patternProperties": {
      "^[a-zA-Z_][a-zA-Z0-9_]*$": {"type": ["string", "null"]}
    },
    "additionalProperties": False,
  },
  file_mounts={
    "type": "object",
    "additionalProperties": _object(
      "source",
      source=_TEXT,
      mode={"enum": ["COPY", "MOUNT", "MOUNT_CACHED"]},
    ),
  },
  setup=_TEXT,
  run=_TEXT,
)
