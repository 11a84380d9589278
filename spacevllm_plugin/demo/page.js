// The frame on which a box is drawn or dragged, and the playhead of the timeline. All else on the page is Gradio's.
() => {
  const GRIP = 14; // pixels of the screen around a corner that drag the corner
  let drag = null;

  const place = (svg, event) => {
    const area = svg.getBoundingClientRect(), size = svg.viewBox.baseVal;
    const inside = (value, most) => Math.min(Math.max(value, 0), most);
    return [inside((event.clientX - area.left) / area.width * size.width, size.width),
            inside((event.clientY - area.top) / area.height * size.height, size.height)];
  };
  const boxOf = (rect) => ["x", "y", "width", "height"].map((name) => Number(rect.getAttribute(name)));
  const draw = (rect, [ax, ay], [bx, by]) => {
    rect.setAttribute("x", Math.min(ax, bx)); rect.setAttribute("y", Math.min(ay, by));
    rect.setAttribute("width", Math.abs(ax - bx)); rect.setAttribute("height", Math.abs(ay - by));
  };

  // What is dragged: a corner of the box, the box, or, anywhere else, a new box.
  document.addEventListener("pointerdown", (event) => {
    const svg = event.target.closest?.(".sv-stage svg[data-color]");
    if (!svg || event.button) return;
    const at = place(svg, event);
    let rect = svg.querySelector("rect.sv-drawn");
    drag = { svg, from: at, fixed: at };
    if (rect) {
      const [x, y, w, h] = boxOf(rect), scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
      const corner = [[x, y], [x + w, y], [x, y + h], [x + w, y + h]].find(
        ([cx, cy]) => Math.hypot(cx - at[0], cy - at[1]) * scale < GRIP);
      if (corner) drag.fixed = [2 * x + w - corner[0], 2 * y + h - corner[1]];
      else if (at[0] > x && at[0] < x + w && at[1] > y && at[1] < y + h) drag.moved = [x, y, w, h];
    } else {
      rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      rect.setAttribute("class", "sv-drawn");
      svg.append(rect);
    }
    drag.rect = rect;
    svg.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  document.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const at = place(drag.svg, event);
    if (!drag.moved) return draw(drag.rect, drag.fixed, at);
    const [x, y, w, h] = drag.moved, size = drag.svg.viewBox.baseVal;
    const left = Math.min(Math.max(x + at[0] - drag.from[0], 0), size.width - w);
    const top = Math.min(Math.max(y + at[1] - drag.from[1], 0), size.height - h);
    draw(drag.rect, [left, top], [left + w, top + h]);
  });
  document.addEventListener("pointerup", () => {
    if (!drag) return;
    const [x, y, w, h] = boxOf(drag.rect);
    drag = null;
    if (w < 1 || h < 1) return; // a click
    const field = document.querySelector("#sv-box textarea, #sv-box input");
    field.value = [x, y, x + w, y + h].map((value) => value.toFixed(1)).join(", ");
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });

  // The player is another one after each answer; its events do not bubble, but are captured.
  const heads = (show, left) => document.querySelectorAll(".sv-playhead").forEach((head) => {
    head.style.display = show; head.style.left = left;
  });
  document.addEventListener("timeupdate", ({ target }) => {
    const line = document.querySelector(".sv-timeline");
    if (line && target.closest?.("#sv-player")) heads("block", `${100 * target.currentTime / line.dataset.seconds}%`);
  }, true);
  document.addEventListener("click", (event) => {
    const track = event.target.closest?.(".sv-track"), video = document.querySelector("#sv-player video");
    if (!track || !video) return;
    const area = track.getBoundingClientRect();
    video.currentTime = (event.clientX - area.left) / area.width * track.closest(".sv-timeline").dataset.seconds;
  });
}
