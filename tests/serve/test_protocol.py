"""The Open Inference Protocol: JSON and binary tensors give what `Task.predict` gives."""

import json

import numpy as np
import pytest

from unireplknet_jax.tasks.predict import predictor

INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def batch(checkpoint, files):
    """(3, 32, 32, 3) uint8."""
    read = [checkpoint.task.read(str(file))[0]["image"] for file in files]
    return np.stack([*read, 255 - read[0]])


@pytest.fixture(scope="module")
def expected(checkpoint, batch):
    """{name: (3, ...)} by the network itself."""
    rows = predictor(checkpoint)([{"image": image} for image in batch])
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def tensor(array, **more):
    kinds = {"uint8": "UINT8", "float32": "FP32"}
    return {"name": "image", "datatype": kinds[array.dtype.name], "shape": [*array.shape], **more}


def binary(client, document, *blobs, path=INFER):
    header = json.dumps(document).encode()
    return client.post(
        path, content=b"".join([header, *blobs]), headers={"Inference-Header-Content-Length": str(len(header))}
    )


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("path", [INFER, "/v2/models/tiny/versions/1/infer"])
def test_json_tensors_give_the_outputs_of_the_network(client, batch, expected, flat, path):
    data = batch.ravel().tolist() if flat else batch.tolist()
    answer = client.post(path, json={"id": "7", "inputs": [tensor(batch, data=data)]})
    assert answer.status_code == 200
    document = answer.json()
    assert (document["model_name"], document["model_version"], document["id"]) == ("tiny", "1", "7")
    assert [output["name"] for output in document["outputs"]] == [*expected]
    for output in document["outputs"]:
        found = np.array(output["data"], np.float32).reshape(output["shape"])
        np.testing.assert_allclose(found, expected[output["name"]], rtol=0, atol=1e-5)


def test_binary_tensors_give_the_same(client, batch, expected):
    document = {
        "inputs": [tensor(batch, parameters={"binary_data_size": batch.nbytes})],
        "outputs": [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "logits"}],
    }
    answer = binary(client, document, batch.tobytes())
    assert answer.status_code == 200
    length = int(answer.headers["inference-header-content-length"])
    header, blob = json.loads(answer.content[:length]), answer.content[length:]
    scores, logits = header["outputs"]
    assert scores["parameters"] == {"binary_data_size": len(blob)}
    found = np.frombuffer(blob, np.float32).reshape(scores["shape"])
    np.testing.assert_allclose(found, expected["scores"], rtol=0, atol=1e-5)
    assert (logits["name"], len(logits["data"])) == ("logits", expected["logits"].size)


def test_all_outputs_may_be_binary(client, batch, expected):
    document = {
        "inputs": [tensor(batch, parameters={"binary_data_size": batch.nbytes})],
        "parameters": {"binary_data_output": True},
    }
    answer = binary(client, document, batch.tobytes())
    length = int(answer.headers["inference-header-content-length"])
    assert len(answer.content) - length == sum(value.nbytes for value in expected.values())


def test_a_model_says_what_it_takes_and_gives(client):
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    expected = {
        "name": "tiny",
        "versions": ["1"],
        "platform": "unireplknet_jax",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 6]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, 6]},
        ],
    }
    assert client.get("/v2/models/tiny").json() == expected
    assert client.get("/v2/models/tiny/versions/1").json() == expected
    assert client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    assert client.get("/v2/models/tiny/versions/2").status_code == 404
    assert client.get("/v2/models/tinny").json() == {"error": "there is no model 'tinny'; did you mean tiny?"}


ONE = np.zeros((1, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "the document has no list of inputs"),
        ({"inputs": []}, "the input image is missing"),
        ({"inputs": [3]}, "the model tiny has no input None; expected image"),
        ({"inputs": [{"name": "picture"}]}, "the model tiny has no input 'picture'; expected image"),
        ({"inputs": [tensor(ONE) | {"datatype": "FP32"}]}, "the input image is of 'FP32'; expected UINT8"),
        ({"inputs": [tensor(ONE) | {"shape": [1, -1]}]}, "the shape of the input image is [1, -1]; expected a list"),
        ({"inputs": [tensor(ONE, data=[1, 2])]}, "the data of the input image are no 3,072 numbers of UINT8"),
        ({"inputs": [tensor(ONE, data=[256] * 3072)]}, "the data of the input image are no 3,072 numbers"),
        ({"inputs": [tensor(ONE, data=[0.5] * 3072)]}, "the data of the input image are no 3,072 numbers"),
        ({"inputs": [tensor(ONE, data=["a"] * 3072)]}, "the data of the input image are no 3,072 numbers"),
        ({"inputs": [tensor(ONE)]}, "the data of the input image are no 3,072 numbers"),
        (
            {"inputs": [tensor(ONE[0], data=[0] * 3072)]},
            "the examples have the shapes [[32, 3]]; expected ([32, 32, 3]",
        ),
        ({"inputs": [tensor(ONE[:0], data=[])]}, "the inputs are no batch"),
        ({"inputs": [tensor(ONE, parameters={"binary_data_size": 3071})]}, "the input image has not as many bytes"),
        ({"inputs": [tensor(ONE, parameters={"binary_data_size": -1})]}, "the input image has not as many bytes"),
        (
            {"inputs": [tensor(ONE, data=[0] * 3072)], "outputs": [{"name": "boxes"}]},
            "the model tiny has no output 'boxes'; expected logits, scores",
        ),
        (
            {
                "inputs": [tensor(ONE, data=[0] * 3072)],
                "outputs": [{"name": "scores", "parameters": {"classification": 3}}],
            },
            "outputs as classifications are not given",
        ),
        # What no array can have: more sides than numpy knows, and more elements than it counts.
        ({"inputs": [tensor(ONE, data=[0]) | {"shape": [1] * 100}]}, "the examples have the shapes [[1, 1, 1, 1, 1, 1"),
        ({"inputs": [tensor(ONE, data=[]) | {"shape": [2**70, 0]}]}, "the examples have the shapes [[0]]; expected ("),
        ({"inputs": [tensor(ONE, data=[0]) | {"shape": [1, 10**4000, 10**4000]}]}, "the examples have the shapes [["),
        ({"inputs": [{"name": "x" * 9000}]}, "the model tiny has no input 'xxxx"),
        ({"inputs": [tensor(ONE) | {"datatype": "x" * 9000}]}, "the input image is of 'xxxx"),
    ],
)
def test_what_is_no_call_is_refused_in_one_sentence(client, document, said):
    answer = binary(client, document, ONE.tobytes())
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(said)
    assert len(answer.content) < 400


@pytest.mark.parametrize("outputs", [["scores"], "scores", [{"name": "scores", "parameters": [1]}]])
def test_an_output_may_be_named_alone(client, outputs):
    answer = client.post(INFER, json={"inputs": [tensor(ONE, data=[0] * 3072)], "outputs": outputs})
    assert answer.status_code == 200
    assert [output["name"] for output in answer.json()["outputs"]] == ["scores"]


@pytest.mark.parametrize("length", ["x", "-1", "99999", "1.5", "9" * 5000])
def test_a_header_of_another_length_is_refused(client, length):
    answer = client.post(INFER, content=b"{}", headers={"Inference-Header-Content-Length": length})
    assert answer.status_code == 400


def test_a_batch_of_more_than_the_queue_is_refused(client):
    many = np.zeros((9, 32, 32, 3), np.uint8)
    document = {"inputs": [tensor(many, parameters={"binary_data_size": many.nbytes})]}
    answer = binary(client, document, many.tobytes())
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        "the batch has 9 examples; this server takes 8 at most.",
    )
    document["inputs"][0]["shape"][0] = 10**4000
    answer = binary(client, document, many.tobytes())
    assert (answer.status_code, len(answer.content) < 200) == (413, True)
