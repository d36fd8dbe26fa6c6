/*
 * Teaches LymphInfer with the nuclei that you have named: points, small outlines, and suggested nuclei that
 * have another class than Suggested by now, of every image of the project, or of the open image alone.
 *
 * Change: `lymphinfer` below, the full path of the program; `classes`, what your classes mean; `name`, the new
 * bundle's. Save the open image first: of the project what is saved is read.
 * Runs in: the script editor (Run, not Run for project) and the menu of install_menu.groovy.
 * For QuPath 0.5 to 0.7. See README.md.
 */
import qupath.fx.dialogs.Dialogs
import qupath.lib.common.GeneralTools
import qupath.lib.projects.Projects

import static qupath.lib.gui.scripting.QPEx.*

// ---- Settings ------------------------------------------------------------------------------

// The command, such as '/home/me/lymphinfer/bin/lymphinfer' or 'C:\\lymphinfer\\Scripts\\lymphinfer.exe'.
String lymphinfer = 'lymphinfer'

// The new bundle, a folder in PROJECT/bundles (without a project: beside the slide).
String name = 'mine'

// The bundle to begin from. null: the default
String from = null

// What classes of yours mean, such as ['Small dark=CD45', 'Vessel=Other']. CD45, Lymphocytes, Tumor, Stroma,
// Other and the like are known.
List<String> classes = []

// Detections too whose class you have changed: a large file an image.
boolean withDetections = false

// ---- Work ----------------------------------------------------------------------------------

def imageData = getCurrentImageData()
def project = getProject()
if (imageData == null && project == null) {
    refuse('Open an image or a project first.')
    return
}
def open = getProjectEntry()
def images = project == null ? [[imageData, null]] : project.getImageList().collect { [it == open ? imageData : null, it] }
def base = project == null ? slideOf(imageData.getServer().getURIs())?.getParentFile() : Projects.getBaseDirectory(project)
if (base == null) {
    refuse('The open image is no file of this computer, and LymphInfer reads files.')
    return
}
def folder = new File(base, 'named')
folder.mkdirs()
def slides = []
int nuclei = 0
for (image in images) {
    def data = image[0] ?: image[1].readImageData()
    def slide = slideOf(data.getServer().getURIs())
    def hierarchy = data.getHierarchy()
    def named = hierarchy.getAnnotationObjects().findAll { isNamed(it) }
    if (withDetections)
        named += hierarchy.getDetectionObjects().findAll { isNamed(it) }
    if (slide != null && named) {
        exportObjectsToGeoJson(named, new File(folder, slide.getName() + '.geojson').getPath(), 'FEATURE_COLLECTION')
        slides << slide.getPath()
        nuclei += named.size()
    }
    if (image[0] == null)
        data.getServer().close()
}
if (!slides) {
    refuse('Nothing is named: give points, small outlines or suggested nuclei a class, and save the image.')
    return
}
def list = new File(folder, 'slides.csv')
list.setText('slide\n' + slides.collect { '"' + it.replace('"', '""') + '"\n' }.join(''), 'UTF-8')
def out = new File(new File(base, 'bundles'), name)
println "${nuclei} named objects on ${slides.size()} slides"
def command = [lymphinfer, 'teach', '--slides', list.getPath(), '--annotations', folder.getPath(), '--out', out.getPath()]
if (from != null)
    command += ['--from', from]
for (meaning in classes)
    command += ['--as', meaning]
println command.join(' ')

def (code, lines, log) = runCommand(command.collect { it.toString() })
if (code == null) {
    refuse("Cannot start ${lymphinfer} (${log.join(' ')}). Set the full path of the program at the top of this script.")
    return
}
if (code != 0 || lines.isEmpty()) {
    refuse("lymphinfer ended with code ${code}; nothing was taught. Its last words:\n\n${log.takeRight(12).join('\n')}")
    return
}
println "What it was worth before and after: ${new File(out, 'CARD.md')}"
println "Use it: bundle = '${out}' at the top of run_lymphinfer.groovy"

/** The file of an image; null for one that is none. */
File slideOf(Collection<URI> uris) {
    return uris.collect { GeneralTools.toPath(it) }.find { it != null }?.toFile()
}

/** Whether an object has a class, and not that of what is still to be reviewed. */
boolean isNamed(object) {
    return object.hasROI() && object.getPathClass() != null && object.getPathClass().toString() != 'Suggested'
}

/** Say why nothing was done: in a window, or, where there is none, as the error that ends the script. */
void refuse(CharSequence words) {
    if (getQuPath() == null)
        throw new RuntimeException(words.toString())
    println words
    Dialogs.showErrorMessage('LymphInfer', words.toString())
}

/** Run a command and show its log as it comes: exit code, standard output, log; no code if it cannot start. */
List runCommand(List<String> command) {
    def lines = Collections.synchronizedList([])
    def log = Collections.synchronizedList([])
    def builder = new ProcessBuilder(command)
    // Python on Windows writes other letters than UTF-8 unless it is told to.
    builder.environment().put('PYTHONUTF8', '1')
    def process
    try {
        process = builder.start()
    } catch (IOException e) {
        return [null, lines, [e.message]]
    }
    process.getOutputStream().close()
    def readers = [
        Thread.start { process.getInputStream().eachLine('UTF-8') { if (!it.isBlank()) lines << it } },
        Thread.start { process.getErrorStream().eachLine('UTF-8') { log << it; println it } }
    ]
    try {
        int code = process.waitFor()
        readers.each { it.join() }
        return [code, lines, log]
    } finally {
        // A script that is killed takes LymphInfer with it.
        process.destroy()
    }
}
