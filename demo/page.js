// The bridge between the page and the Selection Lens in its frame. Runs once, in the component of the lens.
const frame = () => element.querySelector("iframe");
const theme = () => (document.body.classList.contains("dark") ? "dark" : "light");
const show = () => {
  if (!props.value || !frame()) return;
  frame().contentWindow.postMessage({ kind: "show", theme: theme(), ...JSON.parse(props.value) }, location.origin);
};
window.addEventListener("message", (event) => {
  if (!frame() || event.source !== frame().contentWindow) return;
  if (event.data.kind === "ready") show();
  else if (event.data.kind === "height") frame().style.height = `${event.data.height}px`;
  else if (event.data.kind === "box") trigger("select", event.data);
});
watch("value", show);
new MutationObserver(show).observe(document.body, { attributes: true, attributeFilter: ["class"] });
