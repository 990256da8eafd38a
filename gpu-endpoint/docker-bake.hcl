# The worker's images: `docker buildx bake slim`. The context is this directory.
variable "TAG" {
  default = "dev"
}

variable "CUDA_IMAGE" {
  default = "nvidia/cuda:13.0.1-runtime-ubuntu24.04"
}

variable "BAKED_MODEL" {
  default = "z-image-turbo"
}

group "default" {
  targets = ["slim"]
}

# ComfyUI with the models on a network volume.
target "slim" {
  dockerfile = "Dockerfile.comfyui"
  target     = "slim"
  platforms  = ["linux/amd64"]
  args       = { CUDA_IMAGE = CUDA_IMAGE }
  tags       = ["reelhouse/gpu-comfyui:${TAG}"]
}

# ComfyUI with one model inside.
target "baked" {
  inherits = ["slim"]
  target   = "baked"
  args     = { BAKED_MODEL = BAKED_MODEL }
  tags     = ["reelhouse/gpu-comfyui-${BAKED_MODEL}:${TAG}"]
}

# No GPU and no models.
target "preview" {
  dockerfile = "Dockerfile"
  tags       = ["reelhouse/gpu-preview:${TAG}"]
}
