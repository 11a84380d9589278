"""How many examples the fuzz tests draw: a few in the suite, the profile's number with `--hypothesis-profile=fuzz`."""

from hypothesis import HealthCheck, settings


def examples(count: int) -> settings:
    """Settings of `count` examples; of as many as the profile says where one was chosen."""
    chosen = settings.get_current_profile_name() == "fuzz"
    return settings(
        max_examples=settings.default.max_examples if chosen else count,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
