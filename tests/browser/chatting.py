"""What a user does on a chat page, `webchat` or a tab of LlamaBoard, and what they see of the reply."""

QUESTION = "When and where?"
VIDEO = "[data-testid=bot] video"


def upload(page, path):
    page.get_by_role("tab", name="Video").locator("visible=true").click()
    page.locator("input[type=file][accept*=video]").first.set_input_files(path)
    # The page's own player, not one of a reply.
    page.locator("[data-testid$=player]:not([data-testid=test-player])").first.wait_for(state="attached")


def ask(page, question, replies):
    """Ask, and wait for the drawn reply: a video behind each of so many answers."""
    # A model of random weights does not know when to stop.
    page.get_by_label("number input for Maximum new tokens").locator("visible=true").fill("8")
    page.get_by_placeholder("Input...").locator("visible=true").fill(question)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_function(f"document.querySelectorAll('{VIDEO}').length == {replies}")
    page.get_by_text("Drawing …").wait_for(state="hidden")


def facts(page):
    """What a reader can see of the last reply's video and picture."""
    return page.evaluate(
        """async video => {
            video = [...document.querySelectorAll(video)].at(-1);
            const picture = [...document.querySelectorAll('.bot img[src*=tube_]')].at(-1);
            if (video.readyState < 2) await new Promise(done => video.addEventListener('loadeddata', done));
            picture.loading = 'eager';
            await picture.decode();
            return {
                video: video.src, seconds: video.duration, width: video.videoWidth, error: video.error,
                picture: picture.src, sheet: picture.naturalWidth,
            };
        }""",
        VIDEO,
    )
