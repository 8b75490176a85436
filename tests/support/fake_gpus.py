"""GPUs that are not there."""


class Configured:
    """Stands in for `tf.config`, and keeps what was set."""

    def __init__(self, gpus):
        self.gpus, self.set, self.threading = [f"GPU:{number}" for number in range(gpus)], {}, self

    def list_physical_devices(self, kind):
        return self.gpus

    def set_visible_devices(self, device, kind):
        self.set[kind] = device

    def set_intra_op_parallelism_threads(self, number):
        self.set["intra"] = number

    def set_inter_op_parallelism_threads(self, number):
        self.set["inter"] = number
