import pytest
import torch


@pytest.fixture(autouse=True)
def few_threads():
    """Keeps tiny matrices on one thread, where they are faster and do not crowd other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
