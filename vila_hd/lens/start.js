// Selection Lens, part 5 of the page: its pictures are in it.

const roomHeight = () => innerHeight;
Promise.all([...document.images].map((image) => image.decode().catch(() => undefined))).then(() => {
  document.documentElement.classList.add("js");
  $("lens").hidden = false;
  listPictures();
  openPicture(0);
  watchSize();
});
