"""A plain FastAPI route: what most people write first."""

from fastapi import FastAPI, UploadFile

from benchmarks.serving.peer import decode_rgb, open_predictor, predict

app = FastAPI()
predictor = open_predictor()


@app.post("/v1/predict")
def predict_files(files: list[UploadFile]) -> dict:
    return {"images": predict(predictor, [decode_rgb(file.file.read()) for file in files])}
